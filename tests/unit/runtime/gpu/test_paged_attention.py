"""The kernel against attention over plain rows, whatever the batch looks like."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pagoda_runtime.gpu.kernels.paged_attention import (
    DECODE_ROWS,
    PREFILL_ROWS,
    Scratch,
    Tiles,
    paged_attention,
    tokens_per_tile,
)

from tests.unit.runtime.gpu.device import DEVICE, DTYPES, TOLERANCE

# Lanes that are masked out compute with what they have.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")


@dataclass(frozen=True)
class Case:
    """Sequences of (tokens in the step, context), and the shape of the model."""

    sequences: list[tuple[int, int]]
    heads: tuple[int, int]
    head_dim: int
    block_size: int
    window: int | None
    soft_cap: float | None
    splits: int
    tile_rows: int
    dtype: torch.dtype


@st.composite
def cases(draw: st.DrawFn) -> Case:
    lengths = draw(
        st.lists(st.tuples(st.integers(1, 40), st.integers(0, 150)), min_size=1, max_size=4)
    )
    kv_heads, group = draw(st.tuples(st.integers(1, 2), st.sampled_from([1, 3, 4])))
    return Case(
        sequences=[(length, length + past) for length, past in lengths],
        heads=(kv_heads * group, kv_heads),
        head_dim=draw(st.sampled_from([8, 64, 80])),
        block_size=draw(st.sampled_from([1, 6, 16])),
        window=draw(st.sampled_from([None, 1, 7, 100])),
        soft_cap=draw(st.sampled_from([None, 3.0])),
        splits=draw(st.integers(1, 3)),
        tile_rows=draw(st.sampled_from([DECODE_ROWS, PREFILL_ROWS])),
        dtype=draw(st.sampled_from(DTYPES)),
    )


def int32(values: list) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    """The last len(q) of len(k) tokens over all that they see; float32."""
    q, k, v = q.float(), k.float(), v.float()
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(case.head_dim)
    if case.soft_cap is not None:
        scores = case.soft_cap * torch.tanh(scores / case.soft_cap)
    at = torch.arange(len(k) - len(q), len(k), device=DEVICE)[:, None]
    seen = torch.arange(len(k), device=DEVICE)
    hidden = seen > at
    if case.window is not None:
        hidden |= seen <= at - case.window
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -math.inf).softmax(-1), v)


# An example takes up to a second under the interpreter.
@settings(max_examples=500 if DEVICE.type == "cuda" else 15)
@given(cases(), st.randoms(use_true_random=False))
def test_equals_attention_over_plain_rows(case: Case, random) -> None:
    heads, kv_heads = case.heads
    torch.manual_seed(random.randrange(1 << 30))
    needed = [-(-context // case.block_size) for _, context in case.sequences]
    numbers = random.sample(range(sum(needed) + 3), sum(needed))
    tables = torch.zeros((len(needed), max(needed) + 1), dtype=torch.int32, device=DEVICE)
    shape = (sum(needed) + 3, case.block_size, kv_heads, case.head_dim)
    # What nobody may look at would show.
    keys = torch.full(shape, 100.0, dtype=case.dtype, device=DEVICE)
    values = torch.full(shape, 100.0, dtype=case.dtype, device=DEVICE)
    queries, expected, rows = [], [], [0]
    for i, (length, context) in enumerate(case.sequences):
        mine = [numbers.pop() for _ in range(needed[i])]
        tables[i, : needed[i]] = int32(mine)
        q = torch.randn(length, heads, case.head_dim, device=DEVICE).to(case.dtype)
        k, v = torch.randn(2, context, kv_heads, case.head_dim, device=DEVICE).to(case.dtype)
        for at in range(context):
            block, place = mine[at // case.block_size], at % case.block_size
            keys[block, place], values[block, place] = k[at], v[at]
        queries.append(q)
        expected.append(plain(q, k, v, case))
        rows.append(rows[-1] + length)
    per_tile = tokens_per_tile(case.tile_rows, heads, kv_heads)
    tiles = [(i, t) for i, (n, _) in enumerate(case.sequences) for t in range(0, n, per_tile)]
    q = torch.cat([*queries, torch.zeros_like(queries[0])])  # rows in no tile
    out = torch.full_like(q, 7.0)
    paged_attention(
        q,
        keys,
        values,
        Tiles(
            sequence=int32([*(i for i, _ in tiles), -1]),
            first=int32([*(t for _, t in tiles), 0]),
            row=int32(rows[:-1]),
            length=int32([length for length, _ in case.sequences]),
            context=int32([context for _, context in case.sequences]),
            blocks=tables,
        ),
        case.tile_rows,
        out,
        scale=1 / math.sqrt(case.head_dim),
        window=case.window,
        soft_cap=case.soft_cap,
        splits=case.splits,
        scratch=Scratch.allocate(len(q) * heads * case.splits, case.head_dim, DEVICE),
    )
    torch.testing.assert_close(
        out[: rows[-1]].float(), torch.cat(expected), **TOLERANCE[case.dtype]
    )


def test_a_row_in_no_tile_keeps_what_it_had() -> None:
    q = torch.randn(3, 2, 16, device=DEVICE)
    cache = torch.randn(1, 4, 1, 16, device=DEVICE)
    one = int32([1])
    out = torch.full_like(q, 7.0)
    tiles = Tiles(int32([0, -1]), int32([0, 0]), int32([0]), one, one, int32([[0]]))
    paged_attention(q, cache, cache, tiles, DECODE_ROWS, out, scale=1.0)
    assert bool((out[1:] == 7.0).all())
    torch.testing.assert_close(out[0], cache[0, 0].expand(2, 16))
