"""The Debian packages that an image build needs."""

from dev import packages
from dev.cluster.errors import ClusterError

_PROOFS = {
    "buildah": ("buildah",),
    "debian-archive-keyring": ("/usr/share/keyrings/debian-archive-keyring.gpg",),
    "mmdebstrap": ("mmdebstrap",),
    "util-linux": ("setpriv",),
}


def require() -> None:
    """Install what is missing.

    Raises:
        ClusterError: it cannot be installed here; the message says what to install by hand.
    """
    try:
        packages.require(_PROOFS)
    except packages.PackagesError as error:
        raise ClusterError(str(error)) from error
