"""Rotary position embeddings: the table of angles, and turning queries and keys by them."""

from __future__ import annotations

import torch
from torch import Tensor

from pagoda_runtime.model.frequencies import inverse_frequencies
from pagoda_runtime.model.spec import RopeSpec


def rope_table(
    rope: RopeSpec, head_dim: int, length: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions 0 … length-1, each [length, head_dim / 2]."""
    angles = torch.outer(
        torch.arange(length, dtype=torch.float32),
        torch.from_numpy(inverse_frequencies(rope, head_dim)),
    )
    return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x [tokens, heads, head_dim] by cos and sin [tokens, 1, head_dim / 2].

    Dimension i is paired with i + head_dim / 2, as in Hugging Face checkpoints.
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
