"""Processes that outlive the tool: started in their own session, found again by recorded identity.

A process is known by pid, start time and boot, never by name, and signals go through a pidfd: a
pid that the kernel has given to somebody else is never touched.
"""

import json
import os
import select
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

# In the environment of every process of a cluster, with the state folder as value: this finds
# also a process whose starter was killed before it could write the record.
MARK = "PAGODA_DEV_CLUSTER"

# Nothing of the caller's: a cluster must not depend on the shell that started it.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT = {
    "PATH": PATH,
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
}


@dataclass(frozen=True)
class Identity:
    """One process of this machine, now or before: pids are reused, this triple is not."""

    pid: int
    start_time: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> "Identity | None":
        """The running process `pid`; None if there is none, or it has ended and is not reaped."""
        stat = _stat(pid)
        if stat is None or stat[0] in "ZX":
            return None
        return cls(pid, start_time=int(stat[19]), boot=boot_id())

    @property
    def alive(self) -> bool:
        """Whether exactly this process still runs."""
        return Identity.of(self.pid) == self

    def signal(self, number: int) -> None:
        """Send a signal to exactly this process; nothing happens if it is gone."""
        with suppress(ProcessLookupError):
            # The pidfd is opened before the check, so what was checked is what gets the signal.
            descriptor = os.pidfd_open(self.pid)
            try:
                if self.alive:
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)

    def stop(self, timeout: float = 3.0) -> None:
        """End it: SIGTERM, after `timeout` seconds SIGKILL; returns when it is gone."""
        self.signal(signal.SIGTERM)
        if not self.wait(timeout):
            self.kill()

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.signal(signal.SIGKILL)
        if not self.wait(30.0):
            raise TimeoutError(f"process {self.pid} survived SIGKILL for 30 s")

    def wait(self, timeout: float) -> bool:
        """Wait until it has ended, at most `timeout` seconds; whether it has."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            if not self.alive:
                return True
            ended, _, _ = select.select([descriptor], [], [], timeout)
        finally:
            os.close(descriptor)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # it is ours if this very process started it
        return bool(ended)


@dataclass(frozen=True)
class Record:
    """What is on disk about one started process, enough to start it again."""

    name: str
    identity: Identity
    command: list[str]
    log: str
    enters_namespace: bool = False

    @classmethod
    def read(cls, path: Path) -> "Record":
        """The record written by `start`."""
        fields = json.loads(path.read_text())
        return cls(**(fields | {"identity": Identity(**fields["identity"])}))

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        with suppress(FileNotFoundError):
            text = Path(self.log).read_text(errors="replace")
            return "\n".join(text.splitlines()[-lines:])
        return ""


def start(
    state: Path, name: str, command: Sequence[str | Path], *, enters_namespace: bool = False
) -> Record:
    """Start `command` in its own session, log to `<state>/logs/<name>.log`, record it.

    With `enters_namespace` the command is one that forks into a PID namespace and waits (nsenter,
    unshare): the process of interest is its child.
    """
    arguments = [str(part) for part in command]
    log = state / "logs" / f"{name}.log"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawnp(
        arguments[0],
        arguments,
        {**_ENVIRONMENT, MARK: str(state)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    if enters_namespace:
        pid = _only_child(pid)
    identity = Identity.of(pid) or Identity(pid, 0, boot_id())
    record = Record(name, identity, arguments, str(log), enters_namespace)
    write_atomically(_record_path(state, name), json.dumps(asdict(record), indent=1))
    return record


def records(state: Path) -> list[Record]:
    """What was started for the cluster of this state folder, oldest first."""
    paths = sorted((state / "run").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return [Record.read(path) for path in paths]


def record(state: Path, name: str) -> Record | None:
    """The record of one component, if it was ever started."""
    path = _record_path(state, name)
    return Record.read(path) if path.exists() else None


def marked(state: Path) -> Iterator[Identity]:
    """Every process that `start` made for this state folder, and its children, recorded or not."""
    mark = f"{MARK}={state}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                identity = Identity.of(int(path.parent.name))
                if identity is not None:
                    yield identity


def children(pid: int) -> list[int]:
    """The pids of the direct children of `pid`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        stat = _stat(int(path.name))
        if stat is not None and int(stat[1]) == pid:
            found.append(int(path.name))
    return found


def boot_id() -> str:
    """Differs after every boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def write_atomically(path: Path, text: str) -> None:
    """Replace the file in one step, so that a reader or a crash never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def _only_child(pid: int) -> int:
    """The child of a process that has just been started and is about to fork; waits for it."""
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        if found := children(pid):
            return found[0]
        if Identity.of(pid) is None:
            return pid  # it failed; the caller finds it dead and shows its log
        time.sleep(0.01)
    return pid


def _record_path(state: Path, name: str) -> Path:
    return state / "run" / f"{name}.json"


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat after the name: state first, parent second."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(") ")[2].split()
