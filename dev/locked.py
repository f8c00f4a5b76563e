"""Python packages that the project's own environment does without, because they are large or want other
versions: `python -m dev.locked NAME` installs what requirements/NAME.txt says and tells where.

They lie in the cache folder, under the hash of their lock.
"""

import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

from dev.cluster.build import cache_folder
from dev.once import made_once

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements"


def environment(name: str, *, python: str = sys.executable) -> Path:
    """Return the folder of a virtual environment with them, installed first if it is missing.

    Args:
        name: of the lock.
        python: the interpreter's version or path.

    Raises:
        subprocess.CalledProcessError: there is no such Python, or no network.
    """

    def install(building: Path) -> None:
        print(f"installing {name}", file=sys.stderr, flush=True)
        started = time.monotonic()
        for old in building.parent.glob(f"{name}-*"):
            shutil.rmtree(old)
        # Byte code now: pods have no right to write it, and would compile everything at each start.
        options = ["--compile-bytecode", "--require-hashes", "--python", str(building)]
        _uv("venv", "--python", python, "--relocatable", str(building))
        _uv("pip", "sync", *options, str(_lock(name)))
        print(f"installed in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)

    return made_once(_folder("venvs", name), install)


def packages(name: str) -> Path:
    """Return a folder with the packages alone, fit for PYTHONPATH, installed first if it is missing.

    Raises:
        subprocess.CalledProcessError: they cannot be had.
    """

    def install(building: Path) -> None:
        options = ["--no-deps", "--require-hashes", "--target", str(building)]
        _uv("pip", "install", *options, "--requirements", str(_lock(name)))

    return made_once(_folder("packages", name), install)


def _lock(name: str) -> Path:
    return REQUIREMENTS / f"{name}.txt"


def _folder(kind: str, name: str) -> Path:
    key = hashlib.sha256(_lock(name).read_bytes()).hexdigest()[:12]
    return cache_folder() / kind / f"{name}-{key}"


def _uv(*arguments: str) -> None:
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, *arguments, "--quiet"], check=True)


if __name__ == "__main__":
    print(environment(sys.argv[1]))
