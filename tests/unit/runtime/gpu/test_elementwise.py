"""Norms, RoPE and SwiGLU against torch's own."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from pagoda_runtime.gpu.kernels.elementwise import add_norm, rms_norm, rope_and_store, silu_and_mul
from pagoda_runtime.model.rope import apply_rope, rope_table
from pagoda_runtime.model.spec import RopeSpec

from tests.unit.runtime.gpu.device import DEVICE, DTYPES, TOLERANCE

EPS = 1e-5

pytestmark = [
    pytest.mark.parametrize("dtype", DTYPES, ids=str),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
]


def random(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE).to(dtype)


@pytest.mark.parametrize("size", [8, 576, 1000])
def test_norms(size: int, dtype: torch.dtype) -> None:
    x, residual, weight = (random(*shape, dtype=dtype) for shape in [(3, size), (3, size), (size,)])
    expected = F.rms_norm(x.float(), (size,), weight.float(), EPS).to(dtype)
    torch.testing.assert_close(rms_norm(x, weight, EPS), expected, **TOLERANCE[dtype])

    total = x + residual
    expected = F.rms_norm(total.float(), (size,), weight.float(), EPS).to(dtype)
    torch.testing.assert_close(add_norm(residual, x, weight, EPS), expected, **TOLERANCE[dtype])
    assert torch.equal(residual, total)


@pytest.mark.parametrize("size", [5, 1536, 2000])
def test_silu_and_mul(size: int, dtype: torch.dtype) -> None:
    x = random(3, 2 * size, dtype=dtype)
    gate, up = x.float().chunk(2, dim=-1)
    torch.testing.assert_close(silu_and_mul(x).float(), F.silu(gate) * up, **TOLERANCE[dtype])


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(1, 1, 8), (9, 3, 64), (4, 2, 80)])
def test_rope_and_store(
    heads: int, kv_heads: int, dim: int, norm: bool, dtype: torch.dtype
) -> None:
    rows, block = 4, 3
    qkv = random(rows, (heads + 2 * kv_heads) * dim, dtype=dtype)
    angles = rope_table(RopeSpec(10_000.0), dim, 16, torch.float32)
    cos, sin = (part.to(DEVICE) for part in angles)
    positions = torch.tensor([0, 15, 3, 7], dtype=torch.int32, device=DEVICE)
    slots = torch.tensor([5, -1, 0, 8], dtype=torch.int32, device=DEVICE)
    keys = torch.full((3, block, kv_heads, dim), 9.0, dtype=dtype, device=DEVICE)
    values = torch.full_like(keys, 9.0)
    weights = (random(dim, dtype=dtype), random(dim, dtype=dtype)) if norm else None

    q, k, v = (
        part.view(rows, -1, dim).float()
        for part in qkv.split([heads * dim, kv_heads * dim, kv_heads * dim], dim=-1)
    )
    if weights is not None:
        q, k = (
            F.rms_norm(part, (dim,), weight.float(), EPS)
            for part, weight in zip((q, k), weights, strict=True)
        )
    turn = cos[positions.long()].unsqueeze(1), sin[positions.long()].unsqueeze(1)
    expected_keys, expected_values = keys.clone(), values.clone()
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            expected_keys.view(-1, kv_heads, dim)[slot] = apply_rope(k, *turn)[row].to(dtype)
            expected_values.view(-1, kv_heads, dim)[slot] = v[row].to(dtype)

    out = rope_and_store(qkv, positions, slots, (cos, sin), keys, values, heads, weights, EPS)
    torch.testing.assert_close(out, apply_rope(q, *turn).to(dtype), **TOLERANCE[dtype])
    torch.testing.assert_close(keys, expected_keys, **TOLERANCE[dtype])
    assert torch.equal(values, expected_values)
