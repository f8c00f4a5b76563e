"""What is between the products, each in one pass over memory: norms, RoPE with the cache's writes,
SwiGLU. Computed in float32, whatever is stored.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _add_norm(
    out, residual, x, weight, eps, SIZE: tl.constexpr, WIDTH: tl.constexpr, ADD: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * SIZE
    i = tl.arange(0, WIDTH)
    is_in = i < SIZE
    value = tl.load(x + row + i, mask=is_in, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(residual + row + i, mask=is_in, other=0.0).to(tl.float32)
        # What is stored is what is normed, as in an execution that rounds after each operation.
        rounded = value.to(residual.dtype.element_ty)
        tl.store(residual + row + i, rounded, mask=is_in)
        value = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, 0) / SIZE + eps)
    weights = tl.load(weight + i, mask=is_in, other=0.0).to(tl.float32)
    tl.store(out + row + i, (value * scale * weights).to(out.dtype.element_ty), mask=is_in)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [rows, size] divided by the root of its mean square, times weight [size] → like x."""
    out = torch.empty_like(x)
    size = x.shape[1]
    _add_norm[(len(x),)](
        out, x, x, weight, eps, SIZE=size, WIDTH=triton.next_power_of_2(size), ADD=False
    )
    return out


def add_norm(residual: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Add x to residual, in place, and norm the sum; all [rows, size], weight [size]."""
    out = torch.empty_like(x)
    size = x.shape[1]
    _add_norm[(len(x),)](
        out, residual, x, weight, eps, SIZE=size, WIDTH=triton.next_power_of_2(size), ADD=True
    )
    return out


@triton.jit
def _turned(x, weight, heads, is_in, i, cos, sin, eps, HEAD_DIM: tl.constexpr, NORM: tl.constexpr):
    """Heads of one token, normed if asked for and turned: their first and their second halves."""
    HALF: tl.constexpr = HEAD_DIM // 2
    at = heads[:, None] * HEAD_DIM + i
    first = tl.load(x + at, mask=is_in, other=0.0).to(tl.float32)
    second = tl.load(x + at + HALF, mask=is_in, other=0.0).to(tl.float32)
    if NORM:
        squares = tl.sum(first * first, 1) + tl.sum(second * second, 1)
        scale = tl.rsqrt(squares / HEAD_DIM + eps)[:, None]
        is_dim = i < HALF
        first = first * scale * tl.load(weight + i, mask=is_dim, other=0.0).to(tl.float32)
        second = second * scale * tl.load(weight + i + HALF, mask=is_dim, other=0.0).to(tl.float32)
    return first * cos - second * sin, second * cos + first * sin


@triton.jit
def _rope_and_store(
    q,
    keys,
    values,
    qkv,
    positions,
    slots,
    cosines,
    sines,
    q_weight,
    k_weight,
    eps,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEADS_WIDTH: tl.constexpr,
    KV_HEADS_WIDTH: tl.constexpr,
    HALF_WIDTH: tl.constexpr,
    WIDTH: tl.constexpr,
    NORM: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    HALF: tl.constexpr = HEAD_DIM // 2
    x = qkv + row * (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM
    i = tl.arange(0, HALF_WIDTH)
    at_angle = tl.load(positions + row).to(tl.int64) * HALF + i
    cos = tl.load(cosines + at_angle, mask=i < HALF, other=0.0).to(tl.float32)
    sin = tl.load(sines + at_angle, mask=i < HALF, other=0.0).to(tl.float32)

    heads = tl.arange(0, HEADS_WIDTH)
    is_in = (heads[:, None] < NUM_HEADS) & (i < HALF)
    first, second = _turned(x, q_weight, heads, is_in, i, cos, sin, eps, HEAD_DIM, NORM)
    to = q + row * NUM_HEADS * HEAD_DIM + heads[:, None] * HEAD_DIM + i
    tl.store(to, first.to(q.dtype.element_ty), mask=is_in)
    tl.store(to + HALF, second.to(q.dtype.element_ty), mask=is_in)
    if slot < 0:
        return

    kv_heads = tl.arange(0, KV_HEADS_WIDTH)
    is_in = (kv_heads[:, None] < NUM_KV_HEADS) & (i < HALF)
    x += NUM_HEADS * HEAD_DIM
    first, second = _turned(x, k_weight, kv_heads, is_in, i, cos, sin, eps, HEAD_DIM, NORM)
    to = keys + slot * NUM_KV_HEADS * HEAD_DIM + kv_heads[:, None] * HEAD_DIM + i
    tl.store(to, first.to(keys.dtype.element_ty), mask=is_in)
    tl.store(to + HALF, second.to(keys.dtype.element_ty), mask=is_in)

    v = tl.arange(0, WIDTH)
    is_value = v < NUM_KV_HEADS * HEAD_DIM
    value = tl.load(x + NUM_KV_HEADS * HEAD_DIM + v, mask=is_value, other=0.0)
    tl.store(values + slot * NUM_KV_HEADS * HEAD_DIM + v, value, mask=is_value)


def rope_and_store(
    qkv: Tensor,
    positions: Tensor,
    slots: Tensor,
    angles: tuple[Tensor, Tensor],
    keys: Tensor,
    values: Tensor,
    num_heads: int,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
) -> Tensor:
    """Norm queries and keys if the model does, turn them, and put keys and values where they belong.

    Args:
        qkv: [rows, (heads + 2 * kv_heads) * head_dim], queries, keys and values.
        positions: [rows] int32.
        slots: [rows] int32, block * block_size + place in it; -1 stores nothing.
        angles: cosines and sines, each [positions, head_dim / 2].
        keys: [blocks, block_size, kv_heads, head_dim].
        values: like keys.
        num_heads: query heads.
        norms: weights for queries and keys, each [head_dim].
        eps: of the norms.

    Returns:
        queries, [rows, heads, head_dim].
    """
    kv_heads, head_dim = keys.shape[2:]
    q = torch.empty((len(qkv), num_heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    q_weight, k_weight = norms or (qkv, qkv)
    _rope_and_store[(len(qkv),)](
        q,
        keys,
        values,
        qkv,
        positions,
        slots,
        *angles,
        q_weight,
        k_weight,
        eps,
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        HEADS_WIDTH=triton.next_power_of_2(num_heads),
        KV_HEADS_WIDTH=triton.next_power_of_2(kv_heads),
        HALF_WIDTH=triton.next_power_of_2(head_dim // 2),
        WIDTH=triton.next_power_of_2(kv_heads * head_dim),
        NORM=norms is not None,
    )
    return q


@triton.jit
def _silu_and_mul(out, x, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_in = i < SIZE
    gate = tl.load(x + row * 2 * SIZE + i, mask=is_in, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * SIZE + SIZE + i, mask=is_in, other=0.0).to(tl.float32)
    tl.store(
        out + row * SIZE + i, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=is_in
    )


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up; gate_up [rows, 2 * size] → [rows, size]."""
    size = gate_up.shape[1] // 2
    out = torch.empty((len(gate_up), size), dtype=gate_up.dtype, device=gate_up.device)
    block = min(1024, triton.next_power_of_2(size))
    _silu_and_mul[(len(gate_up), triton.cdiv(size, block))](out, gate_up, SIZE=size, BLOCK=block)
    return out
