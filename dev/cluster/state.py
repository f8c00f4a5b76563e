"""The state folder of a cluster: what it is, which ports it has, and who may touch it now."""

import fcntl
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dev.cluster.errors import ClusterError
from dev.cluster.processes import Identity, records, write_atomically

# Below the range from which the kernel gives out ports for outgoing connections (32768 and up), so
# that no connection takes a port between our choice and the component's bind.
_PORTS = range(21000, 29000)
_PORT_NAMES = ("etcd", "etcd-peer", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


def state_root() -> Path:
    """Where the state folders are: `$PAGODA_STATE`, else /var/lib/pagoda-dev (root) or the home."""
    if configured := os.environ.get("PAGODA_STATE"):
        return Path(configured).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/pagoda-dev")
    return Path.home() / ".local" / "state" / "pagoda-dev"


@dataclass
class State:
    """One cluster, as `cluster.json` keeps it."""

    name: str
    node: bool
    scheduler: bool
    apiserver_args: list[str] = field(default_factory=list)
    controller_manager_args: list[str] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)
    # Mount points that the node needed and that were not there: removed with it.
    made_folders: list[str] = field(default_factory=list)
    # Whether the network link between host and node is this cluster's.
    linked: bool = False
    # While it is being started: by whom. None once it is up.
    starter: Identity | None = None

    @property
    def folder(self) -> Path:
        """Everything the cluster writes is below it."""
        return state_root() / self.name

    def save(self) -> None:
        """Write it to `cluster.json`."""
        write_atomically(self.folder / "cluster.json", json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, name: str) -> "State | None":
        """The state of a cluster that was claimed, and perhaps is no longer running."""
        try:
            fields = json.loads((state_root() / name / "cluster.json").read_text())
        except FileNotFoundError:
            return None
        starter = fields["starter"]
        return cls(**(fields | {"starter": Identity(**starter) if starter else None}))

    @property
    def starting(self) -> bool:
        """Whether a live process is at work on it."""
        return self.starter is not None and self.starter.alive

    @property
    def healthy(self) -> bool:
        """Whether it came up and all its processes live."""
        started = records(self.folder)
        return self.starter is None and bool(started) and all(r.identity.alive for r in started)


def names() -> list[str]:
    """The names of all state folders, running or left behind."""
    root = state_root()
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def claim(state: State) -> None:
    """Make the state folder of a new cluster and choose its ports.

    The caller holds the lock. It then owns the folder: others refuse while it lives.
    """
    for folder in ("logs", "run", "pki", "kubeconfigs"):
        (state.folder / folder).mkdir(parents=True)
    (state.folder / "pki").chmod(0o700)
    state.ports = _choose_ports()
    state.starter = Identity.of(os.getpid())
    state.save()


def remove(state_folder: Path) -> None:
    """Delete the state folder, and its parent if it was the last."""
    shutil.rmtree(state_folder, ignore_errors=False)
    with suppress(OSError):
        state_folder.parent.rmdir()


def check_name(name: str) -> None:
    """Refuse names that do not fit into a file name, a cgroup and a certificate."""
    if re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", name) is None:
        raise ClusterError(
            f"{name!r} is no cluster name: lower case letters, digits and inner dashes, at most 32"
        )


@contextmanager
def lock() -> Iterator[None]:
    """Held while clusters are claimed: one process at a time looks and decides."""
    root = state_root()
    while True:
        try:
            root.mkdir(parents=True, exist_ok=True)
        except PermissionError as error:
            raise ClusterError(f"cannot write to {root}; set PAGODA_STATE or be root") from error
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The folder itself is the lock file, and `remove` may have deleted it meanwhile.
            if root.is_dir() and os.path.samestat(os.fstat(descriptor), root.stat()):
                yield
                return
        finally:
            os.close(descriptor)


def _choose_ports() -> dict[str, int]:
    taken = {port for name in names() if (s := State.load(name)) for port in s.ports.values()}
    free = (port for port in _PORTS if port not in taken and _can_bind(port))
    return {name: next(free) for name in _PORT_NAMES}


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        # Like the components' own listeners: a port with only closed connections left is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
