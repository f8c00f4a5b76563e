"""The image that vLLM's pods run in: `python -m tests.e2e.vllm_image` makes it ahead.

Debian 12 with its Python, which is the version that vLLM's environment is for. vLLM itself is six
gigabytes and is mounted from the host (`dev.vllm_cpu`).
"""

import subprocess
import tempfile
from pathlib import Path

from dev.cluster.build import cache_folder
from dev.cluster.images import write_root_archive
from dev.images import tools
from dev.images.spec import Base

BASE = Base(
    "vllm", ("python3", "libgomp1", "libnuma1", "libstdc++6", "ca-certificates"), suite="bookworm"
)
NAME = f"localhost/vllm-base:{BASE.key}"


def archive() -> Path:
    """The image's archive in the cache, made first if it is missing."""
    path = cache_folder() / "debian" / f"vllm-base-{BASE.key}.tar"
    if not path.exists():
        tools.require()
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            root, whole = Path(folder) / "root.tar", Path(folder) / "image.tar"
            # What mmdebstrap mounts goes with its namespace, also when it is killed.
            apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
            recipe = ["mmdebstrap", "--quiet", "--mode=root", "--format=tar", *BASE.options()]
            subprocess.run([*apart, *recipe, BASE.suite, root], check=True)
            write_root_archive(NAME, root, whole).rename(path)
    return path


if __name__ == "__main__":
    print(archive())
