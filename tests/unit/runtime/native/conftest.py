"""The library under test, and the instruction sets that this machine can run."""

import ctypes

import pytest
from pagoda_runtime.native.library import (
    InstructionSet,
    NativeError,
    best_instruction_set,
    load_library,
)


def _library() -> ctypes.CDLL | None:
    try:
        return load_library()
    except NativeError:
        return None


LIBRARY = _library()
BEST = best_instruction_set(LIBRARY) if LIBRARY is not None else InstructionSet.NONE


@pytest.fixture(scope="session")
def library() -> ctypes.CDLL:
    if LIBRARY is None:
        pytest.skip("the library is not built: there is no C++ compiler here")
    return LIBRARY


@pytest.fixture(
    params=[InstructionSet.AVX2, InstructionSet.AVX512], ids=lambda wanted: wanted.name.lower()
)
def instruction_set(request: pytest.FixtureRequest) -> InstructionSet:
    wanted: InstructionSet = request.param
    if wanted > BEST:
        pytest.skip("this processor lacks the instructions")
    return wanted
