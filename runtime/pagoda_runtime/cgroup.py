"""The container's share of the machine: CPU quota and memory limit, from cgroup v2 or v1.

Inside a container the host's core count and memory are visible but not ours; an engine that sizes
itself by them is throttled (threads) or killed (memory).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

# cgroup v1 spells "no limit" as the largest page-aligned 63-bit number; anything near it is no
# limit.
_UNLIMITED_BYTES = 1 << 60


def thread_count(root: Path = Path("/")) -> int:
    """Threads the engine may keep busy: floor(CPU quota), at least 1, at most the cores we may run
    on.

    Rounded down because a thread that spins on a barrier while another one is throttled costs more
    than the fraction of a core would bring.
    """
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota(root)
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs this process may use per second of wall time, or None without a limit."""
    quotas = []
    for folder in _folders(root, "cpu"):
        if (text := _read(folder / "cpu.max")) is not None:  # v2: "<quota|max> <period>"
            quota, _, period = text.partition(" ")
            if quota != "max":
                quotas.append(int(quota) / int(period or 100_000))
        elif (text := _read(folder / "cpu.cfs_quota_us")) is not None and int(
            text
        ) > 0:  # v1: -1 is no limit
            quotas.append(int(text) / int(_read(folder / "cpu.cfs_period_us") or 100_000))
    return min(quotas, default=None)


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes of memory this process may use: the lowest cgroup limit, and without one what the
    machine's other processes leave now.
    """
    limits = [_machine_memory(root)]
    for folder in _folders(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name)
            if text is not None and text != "max" and int(text) < _UNLIMITED_BYTES:
                limits.append(int(text))
    return min(limits)


def oom_kills(root: Path = Path("/")) -> int:
    """How many processes of our cgroup and those beneath it the kernel has killed for want of
    memory; 0 where it does not tell.
    """
    # The nearest group that counts: an ancestor's number includes other containers' processes.
    for folder in _folders(root, "memory"):
        for name in ("memory.events", "memory.oom_control"):  # v2, v1
            for line in (_read(folder / name) or "").splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def _machine_memory(root: Path) -> int:
    """Bytes the kernel reckons can be had without swapping, else all there are."""
    for line in (_read(root / "proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """Our cgroup's directory and its ancestors: a limit on any of them binds us."""
    base = root / "sys/fs/cgroup"
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount = base
        elif controller in controllers.split(","):
            mount = base / controller
        else:
            continue
        folder = mount / path.lstrip("/")
        # Without a cgroup namespace the path is the host's and does not exist in here: the mount is
        # our group.
        if not folder.is_dir():
            folder = mount
        while True:
            yield folder
            if folder == mount:
                break
            folder = folder.parent


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
