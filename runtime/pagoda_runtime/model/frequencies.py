"""How fast rotary position embeddings turn. In numpy, for executions with torch and without."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from pagoda_runtime.model.spec import RopeSpec


def inverse_frequencies(rope: RopeSpec, head_dim: int) -> npt.NDArray[np.float32]:
    """Radians per position of each pair of dimensions, [head_dim / 2]."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = (1.0 / np.float32(rope.theta) ** exponents).astype(np.float32)
    if rope.kind == "linear":
        return frequencies / np.float32(rope.factor)
    if rope.kind == "llama3":
        # Llama 3.1: waves much shorter than the original context keep their frequency, waves longer
        # than it are slowed down by `factor`, those between are blended. `smooth` is 1 for short, 0
        # for long waves.
        turns = rope.original_max_position * frequencies / (2 * math.pi)
        smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        smooth = smooth.clip(0.0, 1.0)
        blended: npt.NDArray[np.float32] = (
            1 - smooth
        ) * frequencies / rope.factor + smooth * frequencies
        return blended.astype(np.float32)
    return frequencies
