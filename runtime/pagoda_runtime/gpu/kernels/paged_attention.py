"""Attention of a mixed batch over paged keys and values, in one kernel.

A program takes one tile of queries: some tokens of one sequence, times the query heads that share a
KV head, so that keys and values are read once for all of them (a decode has one token, but as many
rows as heads in the group). It walks the sequence's blocks by an online softmax (Milakov and
Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al., "FlashAttention", 2022).

Decodes of few long sequences would leave most of the GPU idle. So the walk may be split: each split
keeps its unnormalised sum, its maximum and its sum of weights, and a second kernel joins them
("Flash-Decoding", Dao et al., 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = 1.4426950408889634
# tl.dot wants at least 16 rows; prefill is faster with more queries per block of keys.
DECODE_ROWS = 16
PREFILL_ROWS = 64
BLOCK_KEYS = 64


@dataclass(frozen=True)
class Tiles:
    """Which queries the programs take. All int32, on the device.

    - sequence [tiles]: whose tokens; -1 for a tile that is not used.
    - first [tiles]: the first of them, counted from the sequence's first token of this step.
    - row [sequences]: that token's row among the step's tokens.
    - length [sequences]: the sequence's tokens in this step.
    - context [sequences]: tokens that its last token attends to.
    - blocks [sequences, …]: its block table.
    """

    sequence: Tensor
    first: Tensor
    row: Tensor
    length: Tensor
    context: Tensor
    blocks: Tensor


def tokens_per_tile(rows: int, num_heads: int, num_kv_heads: int) -> int:
    """How many tokens of a sequence a tile of so many rows holds."""
    return max(1, rows // (num_heads // num_kv_heads))


@triton.jit
def _attend(
    out,
    partial,
    marks,
    q,
    keys,
    values,
    sequences,
    firsts,
    rows,
    lengths,
    contexts,
    tables,
    table_stride,
    scale,
    soft_cap,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    TILE_TOKENS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    tile, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    sequence = tl.load(sequences + tile)
    if sequence < 0:
        return
    GROUP: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    first, length = tl.load(firsts + tile), tl.load(lengths + sequence)
    context = tl.load(contexts + sequence)
    tokens = tl.minimum(length - first, TILE_TOKENS)
    begin_position = context - length + first

    # Row r of the tile is token r // GROUP, head r % GROUP of those that share the KV head.
    r = tl.arange(0, TILE_ROWS)
    is_row = r // GROUP < tokens
    position = begin_position + r // GROUP
    row = (tl.load(rows + sequence) + first + r // GROUP).to(tl.int64)
    head = kv_head * GROUP + r % GROUP
    d = tl.arange(0, WIDTH)
    is_dim = d < HEAD_DIM
    at_q = (row * NUM_HEADS + head) * HEAD_DIM
    queries = tl.load(q + at_q[:, None] + d, mask=is_row[:, None] & is_dim, other=0.0)

    # The keys that some row of the tile may see, in as many equal parts as there are splits.
    end = begin_position + tokens
    begin = 0
    if WINDOW > 0:
        begin = tl.maximum(begin_position - WINDOW + 1, 0)
    part = tl.cdiv(tl.cdiv(end - begin, BLOCK_KEYS), SPLITS) * BLOCK_KEYS
    begin = begin + split * part
    end = tl.minimum(begin + part, end)

    highest = tl.full((TILE_ROWS,), float("-inf"), tl.float32)
    weight = tl.zeros((TILE_ROWS,), tl.float32)
    mixed = tl.zeros((TILE_ROWS, WIDTH), tl.float32)
    table = tables + sequence.to(tl.int64) * table_stride
    for at in range(begin, end, BLOCK_KEYS):
        seen = at + tl.arange(0, BLOCK_KEYS)
        is_key = seen < end
        block = tl.load(table + seen // BLOCK_SIZE, mask=is_key, other=0).to(tl.int64)
        slot = block * BLOCK_SIZE + seen % BLOCK_SIZE
        at_kv = (slot * NUM_KV_HEADS + kv_head) * HEAD_DIM
        k = tl.load(keys + at_kv[None, :] + d[:, None], mask=is_key & is_dim[:, None], other=0.0)
        scores = tl.dot(queries, k, input_precision="ieee") * scale
        if SOFT_CAP:
            # tanh by exp, which every version of Triton has; large arguments end at 1 or -1.
            scores = soft_cap * (1 - 2 / (tl.exp(2 * scores / soft_cap) + 1))
        visible = is_key & (seen <= position[:, None])
        if WINDOW > 0:
            visible = visible & (seen > position[:, None] - WINDOW)
        scores = tl.where(visible, scores * 1.4426950408889634, float("-inf"))
        rise = tl.maximum(highest, tl.max(scores, 1))
        # A row that has seen nothing yet has no maximum to subtract.
        base = tl.where(rise == float("-inf"), 0.0, rise)
        shrink = tl.exp2(highest - base)
        p = tl.exp2(scores - base[:, None])
        v = tl.load(values + at_kv[:, None] + d, mask=is_key[:, None] & is_dim, other=0.0)
        mixed = mixed * shrink[:, None]
        mixed += tl.dot(p.to(v.dtype), v, input_precision="ieee")
        weight = weight * shrink + tl.sum(p, 1)
        highest = rise

    if SPLITS == 1:
        mixed = mixed / weight[:, None]
        to = out + at_q[:, None] + d
        tl.store(to, mixed.to(out.dtype.element_ty), mask=is_row[:, None] & is_dim)
    else:
        at = (row * NUM_HEADS + head) * SPLITS + split
        to = partial + at[:, None] * HEAD_DIM + d
        tl.store(to, mixed, mask=is_row[:, None] & is_dim)
        tl.store(marks + at * 2, highest, mask=is_row)
        tl.store(marks + at * 2 + 1, weight, mask=is_row)


@triton.jit
def _join(
    out,
    partial,
    marks,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLITS_WIDTH: tl.constexpr,
):
    """One row and head: weigh the splits' sums by how far their maxima are below the highest."""
    at = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, SPLITS_WIDTH)
    is_split = split < SPLITS
    d = tl.arange(0, WIDTH)
    is_dim = d < HEAD_DIM
    mark = marks + (at * SPLITS + split) * 2
    highest = tl.load(mark, mask=is_split, other=float("-inf"))
    weight = tl.load(mark + 1, mask=is_split, other=0.0)
    scale = tl.exp2(highest - tl.max(highest, 0))
    of = partial + (at * SPLITS + split[:, None]) * HEAD_DIM + d
    mixed = tl.load(of, mask=is_split[:, None] & is_dim, other=0.0)
    joined = tl.sum(mixed * scale[:, None], 0) / tl.sum(weight * scale, 0)
    tl.store(out + at * HEAD_DIM + d, joined.to(out.dtype.element_ty), mask=is_dim)


@dataclass(frozen=True)
class Scratch:
    """Memory of the splits, for so many rows times heads times splits: sums [cells, head_dim] and,
    for each, its maximum and its weight [cells, 2]; float32.
    """

    partial: Tensor
    marks: Tensor

    @classmethod
    def allocate(cls, cells: int, head_dim: int, device: torch.device) -> Scratch:
        """Make it for at most so many cells."""
        partial = torch.empty((cells, head_dim), device=device)
        return cls(partial, torch.empty((cells, 2), device=device))


def paged_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    tiles: Tiles,
    tile_rows: int,
    out: Tensor,
    *,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    splits: int = 1,
    scratch: Scratch | None = None,
) -> None:
    """Let each token's queries attend to its sequence's keys up to its own.

    Args:
        q: [rows, heads, head_dim]; heads is a multiple of kv_heads.
        keys: [blocks, block_size, kv_heads, head_dim], those of this step included.
        values: like keys.
        tiles: which queries; they cover every row of a sequence.
        tile_rows: rows of a tile, a power of two from 16; `tokens_per_tile` says what they hold.
        out: like q. Rows that are in no tile keep what they had.
        scale: what scores are multiplied with.
        window: positions that a token sees, its own included; None for all.
        soft_cap: scores become soft_cap * tanh(scores / soft_cap).
        splits: into how many parts each tile's keys are split.
        scratch: for more than one split, with rows * heads * splits cells or more.
    """
    _, heads, head_dim = q.shape
    block_size, kv_heads = keys.shape[1:3]
    width = max(16, triton.next_power_of_2(head_dim))
    split_memory = scratch or Scratch(out, out)
    _attend[(len(tiles.sequence), kv_heads, splits)](
        out,
        split_memory.partial,
        split_memory.marks,
        q,
        keys,
        values,
        tiles.sequence,
        tiles.first,
        tiles.row,
        tiles.length,
        tiles.context,
        tiles.blocks,
        tiles.blocks.stride(0),
        scale,
        soft_cap or 1.0,
        NUM_HEADS=heads,
        NUM_KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        WIDTH=width,
        BLOCK_SIZE=block_size,
        WINDOW=window or 0,
        SOFT_CAP=soft_cap is not None,
        TILE_TOKENS=tokens_per_tile(tile_rows, heads, kv_heads),
        TILE_ROWS=tile_rows,
        BLOCK_KEYS=BLOCK_KEYS,
        SPLITS=splits,
    )
    if splits > 1:
        assert scratch is not None
        _join[(len(q) * heads,)](
            out,
            scratch.partial,
            scratch.marks,
            HEAD_DIM=head_dim,
            WIDTH=width,
            SPLITS=splits,
            SPLITS_WIDTH=triton.next_power_of_2(splits),
        )
