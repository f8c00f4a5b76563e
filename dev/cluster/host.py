"""What the machine must offer, and the Debian packages that are installed when it does not."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable

from dev.cluster.errors import ClusterError


def require_linux() -> None:
    """Refuse other systems: the node needs Linux namespaces, and all of it is tested there only."""
    if sys.platform != "linux":
        raise ClusterError(f"a development cluster needs Linux, this is {sys.platform}")


def require_root(what: str) -> None:
    """Refuse `what` for anybody but root."""
    if os.geteuid() != 0:
        raise ClusterError(f"{what} needs root (namespaces, mounts, cgroups): run it with sudo")


def require_packages(names: Iterable[str]) -> None:
    """Install the Debian packages of `names` that are missing.

    Raises:
        ClusterError: they cannot be installed here; the message lists what to install by hand.
    """
    missing = [name for name in names if not _installed(name)]
    if not missing:
        return
    listing = " ".join(missing)
    if shutil.which("apt-get") is None:
        raise ClusterError(
            f"these Debian packages, or what is like them here, are needed: {listing}"
        )
    if os.geteuid() != 0:
        raise ClusterError(f"missing packages, install them with: sudo apt-get install {listing}")
    print(f"installing Debian packages: {listing}", file=sys.stderr, flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        done = subprocess.run(
            ["apt-get", "--quiet", *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            tail = "\n".join(done.stdout.splitlines()[-10:])
            raise ClusterError(f"apt-get {command[0]} failed ({listing}):\n{tail}")


def _installed(name: str) -> bool:
    if shutil.which("dpkg-query") is None:
        return False
    query = ["dpkg-query", "--show", "--showformat=${Status}", name]
    done = subprocess.run(query, capture_output=True, text=True)
    return done.stdout == "install ok installed"
