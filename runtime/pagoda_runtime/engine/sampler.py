"""From logits to the next token.

Order: temperature, top_k, top_p, then the inverse of the cumulative distribution at one uniform
number. That number comes from a counter-based generator keyed by (request seed, position): the same
seed gives the same answer whatever else is in the batch, and after a preemption.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pagoda_runtime.engine.philox import uniform

# Sorting a whole vocabulary costs more than a small model's step; this many candidates nearly
# always suffice.
_CANDIDATES = 1024


@dataclass(frozen=True)
class Draw:
    """How to choose one row's token; position is the index the token will have in its sequence."""

    temperature: float
    top_k: int
    top_p: float
    seed: int
    position: int


def sample(logits: Tensor, draws: list[Draw]) -> list[int]:
    """Choose one token per row of logits [rows, vocab] float32."""
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    for row, draw in enumerate(draws):
        if draw.temperature > 0.0:
            tokens[row] = _sample_row(logits[row], draw)
    return tokens


def _sample_row(logits: Tensor, draw: Draw) -> int:
    # A tiny temperature must sharpen towards the maximum, not overflow to inf - inf.
    probabilities = ((logits - logits.max()) / draw.temperature).softmax(dim=-1)
    if draw.top_k <= 0 and draw.top_p >= 1.0:
        return _invert(probabilities, draw)
    values, ids = _candidates(probabilities, draw)
    return int(ids[_invert(values, draw)])


def _candidates(probabilities: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """The tokens that top_k and top_p leave, most likely first: probabilities (not summing to
    1) and ids.
    """
    vocab = len(probabilities)
    count = min(draw.top_k, vocab) if draw.top_k > 0 else min(_CANDIDATES, vocab)
    values, ids = probabilities.topk(count)
    if draw.top_p >= 1.0:
        return values, ids
    # top_p counts within what top_k left.
    mass = values.sum() if draw.top_k > 0 else probabilities.sum()
    if draw.top_k <= 0 and values.sum() < draw.top_p * mass:
        values, ids = probabilities.sort(descending=True)
    before = values.cumsum(dim=0) - values
    keep = max(1, int((before < draw.top_p * mass).sum()))
    return values[:keep], ids[:keep]


def _invert(weights: Tensor, draw: Draw) -> int:
    """Index whose slice of the cumulative weights holds the row's uniform number."""
    cumulative = weights.to(torch.float64).cumsum(dim=0)
    target = uniform(draw.seed, draw.position) * cumulative[-1]
    # right=True skips entries of weight 0; rounding may push the target past the end.
    index = int(torch.searchsorted(cumulative, target, right=True))
    return min(index, len(weights) - 1)
