"""Rotary position embeddings: the table of angles, and turning queries and keys by them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pagoda_runtime.model.spec import RopeSpec


def rope_table(
    rope: RopeSpec, head_dim: int, length: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions 0 … length-1, each [length, head_dim / 2]."""
    angles = torch.outer(
        torch.arange(length, dtype=torch.float32), inverse_frequencies(rope, head_dim)
    )
    return angles.cos().to(dtype), angles.sin().to(dtype)


def inverse_frequencies(rope: RopeSpec, head_dim: int) -> Tensor:
    """Radians per position of each pair of dimensions, [head_dim / 2], in float32."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = 1.0 / rope.theta**exponents
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        # Llama 3.1: waves much shorter than the original context keep their frequency, waves longer
        # than it are slowed down by `factor`, those between are blended. `smooth` is 1 for short, 0
        # for long waves.
        turns = rope.original_max_position * frequencies / (2 * math.pi)
        smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        smooth = smooth.clamp(0.0, 1.0)
        return (1 - smooth) * frequencies / rope.factor + smooth * frequencies
    return frequencies


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x [tokens, heads, head_dim] by cos and sin [tokens, 1, head_dim / 2].

    Dimension i is paired with i + head_dim / 2, as in Hugging Face checkpoints.
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
