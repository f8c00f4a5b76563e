"""How long a replica takes to its first token, with and without compiled kernels in the cache."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.gpu import sides


def seconds(model: Path) -> tuple[float, float]:
    """Of a process that finds TRITON_CACHE_DIR empty, and of the next one; the imports included."""
    with tempfile.TemporaryDirectory(prefix="pagoda-bench-") as cache:
        return _one(model, cache), _one(model, cache)


def _one(model: Path, cache: str) -> float:
    begun = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.gpu.start", str(model)],
        env=os.environ | {"TRITON_CACHE_DIR": cache},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        taken = time.monotonic() - begun
    if process.returncode != 0 or said != b"ready\n":
        raise RuntimeError(f"the engine did not start: exit code {process.returncode}")
    return taken


if __name__ == "__main__":
    sides.engine(Path(sys.argv[1]))
    print("ready", flush=True)
