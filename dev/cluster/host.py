"""What the machine must offer, and the Debian packages that are installed when it does not."""

import os
import sys
from collections.abc import Iterable

from dev import packages
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
    try:
        packages.require({name: _PROOFS[name] for name in names})
    except packages.PackagesError as error:
        raise ClusterError(str(error)) from error


def cni_plugins() -> str:
    """The folder with the CNI plugins."""
    return next(folder for folder in _CNI_FOLDERS if packages.is_there(f"{folder}/ptp"))
