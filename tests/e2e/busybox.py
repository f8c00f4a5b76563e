"""Debian's static busybox for test containers: `python -m tests.e2e.busybox` fetches it ahead.

`make test` runs the end-to-end tests in a network namespace from which nothing can be fetched.
"""

import subprocess
import tempfile
from pathlib import Path

from dev.cluster.build import cache_folder


def static_busybox() -> Path:
    """The binary, unpacked into the cache but not installed."""
    path = cache_folder() / "debian" / "busybox"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            # As apt's own user has no right to this folder, apt says that it downloads as root.
            subprocess.run(["apt-get", "-qq", "update"], check=True)
            subprocess.run(["apt-get", "-qq", "download", "busybox-static"], cwd=folder, check=True)
            (package,) = Path(folder).glob("*.deb")
            subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
            (Path(folder) / "bin" / "busybox").rename(path)
    return path


if __name__ == "__main__":
    print(static_busybox())
