"""The law of `engine.sampler` on the device: steps 5 to 9, one program per row of logits.

Weights are summed as integers, 2^40 to the heaviest: sums are then exact in whatever order they are
made, and 2^23 tokens fit 64 bits. top_k and top_p need no sort: the weight that is the last to stay
is searched for by its bits (a positive float's bits grow with it), with seven thresholds counted in
each pass over the row, so three bits are known after each.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@dataclass(frozen=True)
class Parameters:
    """What each row is sampled by; [rows], on the device.

    - temperature, top_p, min_p: float32. A temperature of 0 takes the highest logit.
    - top_k: int32, 0 for all.
    - seed, position: int64, as `philox.uniform` has them.
    """

    temperature: Tensor
    top_p: Tensor
    min_p: Tensor
    top_k: Tensor
    seed: Tensor
    position: Tensor

    def __getitem__(self, rows: slice) -> Parameters:
        """Those of some rows."""
        return Parameters(
            self.temperature[rows],
            self.top_p[rows],
            self.min_p[rows],
            self.top_k[rows],
            self.seed[rows],
            self.position[rows],
        )


@triton.jit
def _weights(logits, at, highest, temperature, min_p, VOCAB: tl.constexpr, BLOCK: tl.constexpr):
    """A block's weights as integers, and the bits that they are ordered by."""
    i = at + tl.arange(0, BLOCK)
    logit = tl.load(logits + i, mask=i < VOCAB, other=float("-inf"))
    weight = tl.exp((logit - highest) / temperature)
    weight = tl.where((i < VOCAB) & (weight >= min_p), weight, 0.0)
    return (weight * 1099511627776.0).to(tl.int64), weight.to(tl.int32, bitcast=True)


@triton.jit
def _last_to_stay(
    logits,
    highest,
    temperature,
    min_p,
    target,
    BY_WEIGHT: tl.constexpr,
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The highest bits b for which as many tokens (or as much weight) as `target` have b or more,
    and how many (how much) have more than b. 0 if all together have less.
    """
    found = tl.zeros((), tl.int32)
    beyond = tl.zeros((), tl.int64)
    step = tl.arange(0, 8)
    for turn in range(10):  # 30 bits: 1.0, the heaviest, is 0x3F800000
        shift = 27 - 3 * turn
        threshold = found + (step << shift)
        reached = tl.zeros((8,), tl.int64)
        for at in range(0, VOCAB, BLOCK):
            weight, bits = _weights(logits, at, highest, temperature, min_p, VOCAB, BLOCK)
            stays = bits[:, None] >= threshold[None, :]
            is_token = (at + tl.arange(0, BLOCK) < VOCAB)[:, None]
            if BY_WEIGHT:
                reached += tl.sum(tl.where(stays, weight[:, None], 0), 0)
            else:
                reached += tl.sum((stays & is_token).to(tl.int64), 0)
        enough = reached >= target
        # Thresholds grow, so those that are enough come first; the next one's sum is what is beyond.
        last = tl.maximum(tl.sum(enough.to(tl.int32), 0) - 1, 0)
        after = tl.sum(tl.where(step == last + 1, reached, 0), 0)
        beyond = tl.where(last < 7, after, beyond)
        found += last << shift
    return found, beyond


# Single numbers are read of these, so it gains nothing to know how they are aligned. It would cost
# another kernel, compiled while requests wait, when a row in the middle is sampled on its own.
_ANYWHERE = ("tokens", "temperatures", "top_ps", "min_ps", "top_ks", "seeds", "positions")


@triton.jit(do_not_specialize_on_alignment=_ANYWHERE)
def _sample(
    tokens,
    logits,
    stride,
    temperatures,
    top_ps,
    min_ps,
    top_ks,
    seeds,
    positions,
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    logits += row.to(tl.int64) * stride
    temperature = tl.load(temperatures + row)

    highest = tl.full((), float("-inf"), tl.float32)
    token = tl.zeros((), tl.int32)
    for at in range(0, VOCAB, BLOCK):
        i = at + tl.arange(0, BLOCK)
        logit = tl.load(logits + i, mask=i < VOCAB, other=float("-inf"))
        top = tl.max(logit, 0)
        if top > highest:
            token = at + tl.argmax(logit, 0).to(tl.int32)
            highest = top
    if temperature == 0.0:
        tl.store(tokens + row, token)
        return

    min_p, top_p = tl.load(min_ps + row), tl.load(top_ps + row)
    top_k = tl.load(top_ks + row).to(tl.int64)
    # Who has more bits than `bits` stays, and of those that have as many the first `equals`.
    bits = tl.full((), -1, tl.int32)
    equals = tl.zeros((), tl.int64)
    if (top_k > 0) & (top_k < VOCAB):
        bits, beyond = _last_to_stay(
            logits, highest, temperature, min_p, top_k, False, VOCAB, BLOCK
        )
        equals = top_k - beyond
    if top_p < 1.0:
        whole = tl.zeros((), tl.int64)
        each = tl.zeros((), tl.int64)  # what one of those with `bits` weighs
        for at in range(0, VOCAB, BLOCK):
            weight, own = _weights(logits, at, highest, temperature, min_p, VOCAB, BLOCK)
            whole += tl.sum(tl.where(own > bits, weight, 0), 0)
            each = tl.maximum(each, tl.max(tl.where(own == bits, weight, 0), 0))
        whole += each * equals
        needed = tl.ceil(top_p.to(tl.float64) * whole.to(tl.float64)).to(tl.int64)
        needed = tl.maximum(needed, 1)  # one always stays
        heavy, beyond = _last_to_stay(
            logits, highest, temperature, min_p, needed, True, VOCAB, BLOCK
        )
        each = tl.zeros((), tl.int64)
        for at in range(0, VOCAB, BLOCK):
            weight, own = _weights(logits, at, highest, temperature, min_p, VOCAB, BLOCK)
            each = tl.maximum(each, tl.max(tl.where(own == heavy, weight, 0), 0))
        fewest = tl.cdiv(needed - beyond, tl.maximum(each, 1))
        equals = tl.where(heavy > bits, fewest, tl.minimum(equals, fewest))
        bits = tl.maximum(bits, heavy)

    whole = tl.zeros((), tl.int64)
    before = tl.zeros((), tl.int64)
    for at in range(0, VOCAB, BLOCK):
        weight, own = _weights(logits, at, highest, temperature, min_p, VOCAB, BLOCK)
        is_equal = (own == bits).to(tl.int64)
        stays = (own > bits) | ((own == bits) & (before + tl.cumsum(is_equal, 0) <= equals))
        whole += tl.sum(tl.where(stays, weight, 0), 0)
        before += tl.sum(is_equal, 0)

    seed, position = tl.load(seeds + row), tl.load(positions + row)
    low, high = position & 0xFFFFFFFF, (position >> 32) & 0xFFFFFFFF
    x0, x1, _, _ = tl.philox(
        seed.to(tl.uint64),
        low.to(tl.uint32),
        high.to(tl.uint32),
        tl.zeros((), tl.uint32),
        tl.zeros((), tl.uint32),
    )
    number = ((x1.to(tl.uint64) << 32) | x0.to(tl.uint64)) >> 11
    share = number.to(tl.int64).to(tl.float64) * 1.1102230246251565e-16  # 2^-53
    target = (share * whole.to(tl.float64)).to(tl.int64)

    chosen = tl.full((), VOCAB, tl.int32)
    last = tl.zeros((), tl.int32)
    passed = tl.zeros((), tl.int64)
    before = tl.zeros((), tl.int64)
    for at in range(0, VOCAB, BLOCK):
        weight, own = _weights(logits, at, highest, temperature, min_p, VOCAB, BLOCK)
        is_equal = (own == bits).to(tl.int64)
        stays = (own > bits) | ((own == bits) & (before + tl.cumsum(is_equal, 0) <= equals))
        before += tl.sum(is_equal, 0)
        weight = tl.where(stays, weight, 0)
        cumulative = passed + tl.cumsum(weight, 0)
        i = at + tl.arange(0, BLOCK)
        chosen = tl.minimum(chosen, tl.min(tl.where(cumulative > target, i, VOCAB), 0))
        last = tl.maximum(last, tl.max(tl.where(weight > 0, i, 0), 0))
        passed += tl.sum(weight, 0)
    # Rounding may push the target to the end: then it is the last that weighs anything.
    tl.store(tokens + row, tl.minimum(chosen, last))


def sample(logits: Tensor, parameters: Parameters, tokens: Tensor) -> None:
    """Choose a token for each row of logits.

    Args:
        logits: [rows, vocab] float32, bias and penalties included.
        parameters: of as many rows.
        tokens: [rows] int32, filled.
    """
    rows, vocab = logits.shape
    _sample[(rows,)](
        tokens,
        logits,
        logits.stride(0),
        parameters.temperature,
        parameters.top_p,
        parameters.min_p,
        parameters.top_k,
        parameters.seed,
        parameters.position,
        VOCAB=vocab,
        BLOCK=min(BLOCK, triton.next_power_of_2(vocab)),
    )
