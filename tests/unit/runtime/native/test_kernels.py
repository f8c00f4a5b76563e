"""The kernels' own tests, a C++ program: as it is built for users, and under what finds errors of
memory and of threads.
"""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from dev.images.spec import ROOT

KERNELS = Path(__file__).with_name("kernels")


def _build_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("csrc_build", ROOT / "runtime/csrc/build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = _build_script()
pytestmark = pytest.mark.skipif(not build.supported(), reason="there is no C++ compiler here")


def run(folder: Path, *flags: str, under: tuple[str, ...] = ()) -> None:
    program = folder / "kernels"
    build.build(
        program,
        shared=False,
        extra_sources=sorted(KERNELS.glob("*.cpp")),
        extra_flags=[f"-I{KERNELS}", *flags],
    )
    # A sanitizer that finds something aborts.
    options = {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run(
        [*under, str(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | options,
    )
    assert done.returncode == 0, done.stdout


def test_kernels(tmp_path: Path) -> None:
    run(tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_no_memory_error_and_no_undefined_behaviour(tmp_path: Path) -> None:
    run(tmp_path, "-O1", "-fsanitize=address,undefined", "-fno-sanitize=alignment")


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_no_data_race(tmp_path: Path) -> None:
    run(tmp_path, "-O1", "-fsanitize=thread")


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_valgrind(tmp_path: Path) -> None:
    """It knows no AVX-512: the AVX2 kernels are what it sees."""
    run(tmp_path, "-O1", under=("valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full"))
