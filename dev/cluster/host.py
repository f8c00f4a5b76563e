"""What the machine must offer, and the Debian packages that are installed when it does not."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from dev.cluster.errors import ClusterError

_CNI_FOLDERS = ("/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin")

# Debian packages, and what shows that their content is here, whoever packaged it: any one of these
# files or commands.
_PROOFS = {
    "containernetworking-plugins": tuple(f"{folder}/ptp" for folder in _CNI_FOLDERS),
    "gcc": ("gcc",),
    "iproute2": ("ip",),
    "iptables": ("iptables",),
    "libc6-dev": ("/usr/include/stdlib.h",),
    "libseccomp-dev": ("/usr/include/seccomp.h",),
    "pkg-config": ("pkg-config",),
    "procps": ("sysctl",),
    "util-linux": ("nsenter",),
}


def require_linux() -> None:
    """Refuse other systems: the node needs Linux namespaces, and all of it is tested there only."""
    if sys.platform != "linux":
        raise ClusterError(f"a development cluster needs Linux, this is {sys.platform}")


def require_root(what: str) -> None:
    """Refuse `what` for anybody but root."""
    if os.geteuid() != 0:
        raise ClusterError(f"{what} needs root (namespaces, mounts, cgroups): run it with sudo")


def require_packages(names: Iterable[str]) -> None:
    """Install the Debian packages of `names` whose content is missing.

    Raises:
        ClusterError: they cannot be installed here; the message lists what to install by hand.
    """
    missing = [name for name in names if not any(map(_is_there, _PROOFS[name]))]
    if not missing:
        return
    listing = " ".join(missing)
    if shutil.which("apt-get") is None:
        raise ClusterError(f"install what Debian has in these packages: {listing}")
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


def cni_plugins() -> str:
    """The folder with the CNI plugins."""
    return next(folder for folder in _CNI_FOLDERS if _is_there(f"{folder}/ptp"))


def _is_there(proof: str) -> bool:
    """Whether a file exists or, for a bare name, a command."""
    if proof.startswith("/"):
        return Path(proof).exists()
    return shutil.which(proof, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None
