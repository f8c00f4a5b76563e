"""Paged attention in plain torch, one sequence at a time. Runs everywhere; the reference for faster
kernels.

A window is a mask here: blocks that have left it are still gathered, and still held.

Per sequence and layer: gather the blocks into a scratch buffer that stays in the CPU's cache, then
two batched products per KV head. (torch's own scaled_dot_product_attention with enable_gqa is ten
times slower on CPUs, and gathering into fresh memory pays a page fault per page.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pagoda_runtime.attention.base import AttentionBackend, KVLayout, SequenceChunk
from pagoda_runtime.model.spec import DecoderSpec

# Scores that are computed at once, so that a long context does not need memory without bound.
_MOST_SCORES = 1 << 24


@dataclass(frozen=True)
class _Plan:
    """One sequence's part of a step."""

    first_row: int  # where its tokens begin among the step's tokens
    length: int
    context: int  # tokens it attends to
    blocks: Tensor  # block numbers, [blocks] int64
    hidden: dict[int | None, Tensor | None]  # by window; see _hidden


class PagedTorchAttention(AttentionBackend):
    """KV cache [layers, blocks, block_size, kv_heads, head_dim], once for keys and once for
    values.
    """

    def __init__(self, spec: DecoderSpec, layout: KVLayout) -> None:
        super().__init__(spec, layout)
        shape = (
            spec.num_layers,
            layout.num_blocks,
            layout.block_size,
            spec.num_kv_heads,
            spec.head_dim,
        )
        # Not zeroed: only written slots are read, and the memory stays uncommitted until it is
        # used.
        self._keys = torch.empty(shape, dtype=layout.dtype)
        self._values = torch.empty(shape, dtype=layout.dtype)
        self._scratch = torch.empty((2, 0, *shape[2:]), dtype=layout.dtype)
        self._scale = 1.0 / math.sqrt(spec.head_dim)
        self._windows = set(spec.windows)
        self._plans: list[_Plan] = []
        self._slots = torch.empty(0, dtype=torch.int64)

    def plan(self, chunks: Sequence[SequenceChunk]) -> None:
        """Work out, once for all layers, where new keys go and which blocks each sequence reads."""
        size = self.layout.block_size
        self._plans = []
        slots: list[Tensor] = []
        row = 0
        for chunk in chunks:
            length = chunk.end - chunk.start
            blocks = torch.tensor(chunk.block_table[: -(-chunk.end // size)], dtype=torch.int64)
            positions = torch.arange(chunk.start, chunk.end)
            slots.append(blocks[positions // size] * size + positions % size)
            hidden = {window: _hidden(positions, chunk.end, window) for window in self._windows}
            self._plans.append(_Plan(row, length, chunk.end, blocks, hidden))
            row += length
        self._slots = torch.cat(slots)
        most = max(len(plan.blocks) for plan in self._plans)
        if most > self._scratch.shape[1]:
            self._scratch = self._scratch.new_empty((2, most, *self._scratch.shape[2:]))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See the base class."""
        self._keys[layer].flatten(0, 1).index_copy_(0, self._slots, k)
        self._values[layer].flatten(0, 1).index_copy_(0, self._slots, v)
        out = torch.empty_like(q)
        for plan in self._plans:
            keys = self._gather(0, self._keys[layer], plan)
            values = self._gather(1, self._values[layer], plan)
            hidden = plan.hidden[self.spec.windows[layer]]
            rows = max(1, _MOST_SCORES // (q.shape[1] * plan.context))
            for begin in range(0, plan.length, rows):
                some = slice(begin, min(begin + rows, plan.length))
                mask = None if hidden is None else hidden[some]
                target = slice(plan.first_row + some.start, plan.first_row + some.stop)
                out[target] = self._attend_one(q[target], keys, values, mask)
        return out

    def _gather(self, half: int, cache: Tensor, plan: _Plan) -> Tensor:
        """The sequence's keys or values, [kv_heads, context, head_dim], in scratch memory."""
        blocks = self._scratch[half, : len(plan.blocks)]
        torch.index_select(cache, 0, plan.blocks, out=blocks)
        return blocks.flatten(0, 1)[: plan.context].transpose(0, 1)

    def _attend_one(self, q: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None) -> Tensor:
        """q [length, heads, head_dim] over keys and values [kv_heads, context, head_dim]; →
        like q.
        """
        length, heads, head_dim = q.shape
        kv_heads = keys.shape[0]
        # The query heads that share a KV head become rows of one product: [kv_heads, group *
        # length, head_dim].
        grouped = q.view(length, kv_heads, heads // kv_heads, head_dim).permute(1, 2, 0, 3)
        rows = grouped.reshape(kv_heads, -1, head_dim)
        scores = torch.bmm(rows, keys.transpose(1, 2)).float() * self._scale
        if hidden is not None:
            scores.view(kv_heads, -1, length, hidden.shape[1]).masked_fill_(hidden, -math.inf)
        mixed = torch.bmm(scores.softmax(dim=-1).to(values.dtype), values)
        back = mixed.view(kv_heads, -1, length, head_dim).permute(2, 0, 1, 3)
        return back.reshape(length, heads, head_dim)


def _hidden(positions: Tensor, context: int, window: int | None) -> Tensor | None:
    """[length, context], True where the token at a position may not look: at what comes after it
    and at what has left its window. None if every token sees everything.
    """
    seen = torch.arange(context)
    hidden = seen > positions[:, None]
    if window is not None:
        hidden |= seen <= positions[:, None] - window
    elif len(positions) == 1:
        return None
    return hidden
