"""Folders in the cache that are made once, whoever comes first."""

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return the folder, made first if it is missing; others wait for it meanwhile.

    Args:
        folder: where it is kept.
        make: makes it in another place, which is renamed when it is whole.
    """
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            building = folder.with_name(f".{folder.name}")
            shutil.rmtree(building, ignore_errors=True)  # left by one that was killed
            make(building)
            building.rename(folder)
    return folder
