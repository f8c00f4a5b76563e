"""Debian packages that a tool needs, installed when they are missing."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


class PackagesError(Exception):
    """Packages are missing and cannot be installed; the message lists what to install by hand."""


def require(proofs: Mapping[str, Sequence[str]]) -> None:
    """Install the packages whose content is missing.

    Args:
        proofs: package → files or commands, any one of which shows that its content is there,
            whoever packaged it.

    Raises:
        PackagesError: they cannot be installed here.
    """
    missing = [package for package, proof in proofs.items() if not any(map(is_there, proof))]
    if not missing:
        return
    listing = " ".join(missing)
    if shutil.which("apt-get") is None:
        raise PackagesError(f"install what Debian has in these packages: {listing}")
    if os.geteuid() != 0:
        raise PackagesError(f"missing packages, install them with: sudo apt-get install {listing}")
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
            raise PackagesError(f"apt-get {command[0]} failed ({listing}):\n{tail}")


def is_there(proof: str) -> bool:
    """Tell whether a file exists or, for a bare name, a command."""
    if proof.startswith("/"):
        return Path(proof).exists()
    return shutil.which(proof, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None
