"""The namespaces of the node: its own mounts, network and process ids.

A first process (the pause binary) holds them. Everything of the node runs below it, so when it
ends the kernel kills every process of every pod, and with the last one all mounts and interfaces
are gone: nothing is to be searched for and unmounted.
"""

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dev.cluster import processes
from dev.cluster.build import binary
from dev.cluster.errors import ClusterError
from dev.cluster.processes import Record
from dev.cluster.state import State

HOLDER = "node"

# Paths that containerd, CNI and kubelet have built in or that must not be shared with others on
# this host. In the node they are folders of the state folder.
_OWN_FOLDERS = {
    "/var/log": "log",
    "/var/lib/cni": "cni",
    "/var/lib/kubelet": "kubelet",
}


def create(state: State) -> Record:
    """Make the namespaces and their mounts; returns the process that holds them."""
    command: list[str | Path] = [
        "unshare",
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--mount-proc",
        # What the host mounts later appears in the node, nothing appears the other way round.
        "--propagation=slave",
        binary("pause"),
    ]
    holder = processes.start(state.folder, HOLDER, command, enters_namespace=True)
    if not holder.identity.alive:
        raise ClusterError(f"the node's namespaces could not be made\n{holder.tail()}")
    node = holder.identity.pid
    for target, name in _OWN_FOLDERS.items():
        source = state.folder / "node" / name
        source.mkdir(parents=True)
        _make_mount_point(state, Path(target))
        enter(node, "mount", "--bind", source, target)
    # Sockets, locks and names of network namespaces.
    enter(node, "mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    return holder


def enter(node: int, *command: str | Path) -> str:
    """Run a command in the namespaces of process `node`; returns its output."""
    done = subprocess.run(entering(node, command), capture_output=True, text=True)
    if done.returncode != 0:
        shown = " ".join(map(str, command))
        raise ClusterError(f"in the node: {shown}: {done.stderr.strip()}")
    return done.stdout


def entering(node: int, command: Sequence[str | Path]) -> list[str | Path]:
    """The command line that runs `command` in the namespaces of process `node`."""
    return ["nsenter", f"--target={node}", "--mount", "--net", "--pid", "--", *command]


def remove_mount_points(state: State) -> None:
    """Remove the empty folders that `create` had to make outside the state folder."""
    for path in state.made_folders:
        with suppress(OSError):  # somebody else uses it by now
            Path(path).rmdir()


def _make_mount_point(state: State, path: Path) -> None:
    if not path.is_dir():
        # Noted first: a crash in between must not leave it.
        state.made_folders.append(str(path))
        state.save()
        path.mkdir(parents=True)
