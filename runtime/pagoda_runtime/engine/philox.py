"""One uniform random number per (seed, position), the same on every machine and in every execution.

Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): a keyed
bijection of a counter, so there is no state to keep, and an answer does not depend on its batch, on
preemption or on which execution computed it. The exact bits, which `csrc` reproduces:

    key     = (seed bits 0-31, seed bits 32-63)          of the seed modulo 2^64
    counter = (position bits 0-31, position bits 32-63, 0, 0)
    x0, x1, x2, x3 = philox4x32_10(counter, key)         x2 and x3 are not used
    uniform = ((x1 * 2^32 + x0) >> 11) * 2^-53           exact in a double, in [0, 1)
"""

from __future__ import annotations

_MASK = 0xFFFF_FFFF
_MULTIPLIERS = (0xD251_1F53, 0xCD9E_8D57)
_KEY_STEPS = (0x9E37_79B9, 0xBB67_AE85)
_ROUNDS = 10


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, ...]:
    """Ten rounds over four 32-bit words under a key of two; → four 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0 = _MULTIPLIERS[0] * c0
        product1 = _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & _MASK,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & _MASK,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1, c2, c3


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) with which a request of this seed (any integer) chooses the token at
    this position (0 … 2^64-1).
    """
    counter = (position & _MASK, position >> 32, 0, 0)
    x0, x1, _, _ = philox4x32(counter, (seed & _MASK, seed >> 32 & _MASK))
    return ((x1 << 32 | x0) >> 11) * 2.0**-53
