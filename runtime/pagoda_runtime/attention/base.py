"""The seam between the decoder and an attention implementation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pagoda_runtime.model.spec import DecoderSpec


@dataclass(frozen=True)
class KVLayout:
    """Size of the KV cache."""

    num_blocks: int
    block_size: int
    dtype: torch.dtype


@dataclass(frozen=True)
class SequenceChunk:
    """The tokens [start, end) of one sequence that are computed in this step; they see [0, end)."""

    start: int
    end: int
    block_table: Sequence[int]


class AttentionBackend(ABC):
    """Holds the KV cache and attends over it. One `plan` per step, then one `attend` per layer."""

    def __init__(self, spec: DecoderSpec, layout: KVLayout) -> None:
        self.spec = spec
        self.layout = layout

    @abstractmethod
    def plan(self, chunks: Sequence[SequenceChunk]) -> None:
        """Prepare a step. The step's tokens are those of the chunks, one chunk after another."""

    @abstractmethod
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k and v [tokens, kv_heads, head_dim], then let q [tokens, heads, head_dim]
        attend; → like q.
        """
