"""Every kernel compiles to good machine code of a GPU, in the shapes that are served. None is needed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("architecture", ["90"])
def test_kernels_compile(architecture: str, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("machine_code.py"), architecture],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
