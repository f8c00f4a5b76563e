"""The Debian packages that an image build needs, installed when they are missing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from dev.cluster.errors import ClusterError

# Package → the command or file that shows it is there, whoever packaged it.
_PROOFS = {
    "buildah": "buildah",
    "debian-archive-keyring": "/usr/share/keyrings/debian-archive-keyring.gpg",
    "mmdebstrap": "mmdebstrap",
    "util-linux": "setpriv",
}


def require() -> None:
    """Installs what is missing.

    Raises:
        ClusterError: it cannot be installed here; the message says what to install by hand.
    """
    missing = [package for package, proof in _PROOFS.items() if not _is_there(proof)]
    if not missing:
        return
    listing = " ".join(missing)
    if shutil.which("apt-get") is None:
        raise ClusterError(f"install what Debian has in these packages: {listing}")
    print(f"installing Debian packages: {listing}", file=sys.stderr, flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        apt = ["apt-get", "--quiet", *command]
        done = subprocess.run(apt, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise ClusterError(f"{' '.join(apt)} failed:\n{(done.stdout + done.stderr)[-2000:]}")


def _is_there(proof: str) -> bool:
    return Path(proof).exists() if proof.startswith("/") else shutil.which(proof) is not None
