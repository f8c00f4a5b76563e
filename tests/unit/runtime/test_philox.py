"""The random numbers, bit for bit: every execution must come to these."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pagoda_runtime.engine.philox import philox4x32, uniform

ONES = 0xFFFF_FFFF


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        pytest.param(
            (0, 0, 0, 0),
            (0, 0),
            (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
            id="zeros",
        ),
        pytest.param(
            (ONES, ONES, ONES, ONES),
            (ONES, ONES),
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
            id="ones",
        ),
        pytest.param(
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
            id="pi",
        ),
    ],
)
def test_known_answers_of_the_authors(
    counter: tuple[int, int, int, int], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    """These three are in the test vectors of the Random123 library."""
    assert philox4x32(counter, key) == words


@pytest.mark.parametrize(
    ("seed", "position", "value"),
    [
        (0, 0, "0x1.c2d38b1acc4fdp-1"),
        (1, 0, "0x1.ca141d79c7d00p-1"),
        (0, 1, "0x1.72c8036fe3932p-2"),
        (42, 7, "0x1.a1e132156ef60p-2"),
        (2**63 + 5, 2**33 + 1, "0x1.e464d703f4306p-2"),
        (-1, 100, "0x1.feceeed5ab084p-1"),
    ],
)
def test_known_answers_of_uniform(seed: int, position: int, value: str) -> None:
    assert uniform(seed, position) == float.fromhex(value)


@settings(max_examples=50, deadline=None)
@given(st.integers(-(2**63), 2**64), st.integers(0, 2**31))
def test_uniform_depends_on_its_arguments_alone(seed: int, position: int) -> None:
    value = uniform(seed, position)
    assert 0.0 <= value < 1.0
    assert value == uniform(seed + 2**64, position)
    assert value != uniform(seed, position + 1)
    assert value != uniform(seed + 1, position)
