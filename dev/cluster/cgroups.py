"""The cgroup below which the kubelet keeps its pods, in whatever hierarchies the host has."""

import hashlib
import time
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS = {"cpu", "cpuset", "hugetlb", "io", "memory", "pids"}


def name(state: Path) -> str:
    """The path of the cgroup of a state folder, from the root of each hierarchy.

    No other folder has it, wherever it is: a kubelet kills what it does not know in its cgroup.
    """
    return f"/pagoda-{state.name}-{hashlib.sha256(bytes(state)).hexdigest()[:8]}"


def create(state: Path) -> None:
    """Make it, empty, in every hierarchy."""
    if _is_version_2():
        _delegate_controllers()
    for hierarchy in _hierarchies():
        folder = hierarchy / name(state).lstrip("/")
        folder.mkdir(exist_ok=True)
        # Version 1: a cpuset takes no process before it has processors and memory.
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (hierarchy / setting).exists():
                (folder / setting).write_text((hierarchy / setting).read_text())


def remove(state: Path) -> None:
    """Remove it and what the kubelet made below; its processes are gone."""
    for hierarchy in _hierarchies():
        folder = hierarchy / name(state).lstrip("/")
        if folder.is_dir():
            for inner in sorted(folder.rglob("*/"), reverse=True):
                _rmdir(inner)
            _rmdir(folder)


def _rmdir(folder: Path) -> None:
    """Remove one; the kernel lets go of a process that has ended a moment later."""
    deadline = time.monotonic() + 10.0
    while folder.is_dir():
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _delegate_controllers() -> None:
    """Let cgroups below the root have the controllers that a kubelet asks for."""
    available = (_ROOT / "cgroup.controllers").read_text().split()
    for controller in _CONTROLLERS.intersection(available):
        (_ROOT / "cgroup.subtree_control").write_text(f"+{controller}")


def _is_version_2() -> bool:
    return (_ROOT / "cgroup.controllers").exists()


def _hierarchies() -> list[Path]:
    """The root of the one hierarchy of version 2, or of each of version 1."""
    if _is_version_2():
        return [_ROOT]
    # cpu and cpuacct may be links to one folder.
    return sorted({path.resolve() for path in _ROOT.iterdir() if (path / "cgroup.procs").exists()})
