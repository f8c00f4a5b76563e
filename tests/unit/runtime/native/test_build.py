"""What the build script says where there is no compiler."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dev.images.spec import ROOT


@pytest.mark.parametrize(("flags", "status"), [([], 1), (["--if-possible"], 0)])
def test_without_a_compiler(tmp_path: Path, flags: list[str], status: int) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "runtime/csrc/build.py", *flags, tmp_path / "lib.so"],
        env=os.environ | {"CXX": "no-such-compiler"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == status
    assert done.stderr.startswith("no C++ compiler")
    assert not (tmp_path / "lib.so").exists()


def test_the_compilers_words_reach_the_user(tmp_path: Path) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho out of disk; exit 3\n")
    compiler.chmod(0o755)
    done = subprocess.run(
        [sys.executable, ROOT / "runtime/csrc/build.py", tmp_path / "lib.so"],
        env=os.environ | {"CXX": str(compiler)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 1
    assert "out of disk" in done.stderr
