"""8-bit products beside exact ones."""

import pytest
import torch
from pagoda_runtime.gpu.fp8 import Fp8Linear, quantize
from pagoda_runtime.model.decoder import Linear

from tests.unit.runtime.gpu.device import DEVICE

# Three bits of mantissa; the interpreter cuts off where a GPU rounds.
ERROR = 1 / 16 if DEVICE.type == "cuda" else 1 / 8

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.skipif(
        DEVICE.type == "cuda" and torch.cuda.get_device_capability() < (8, 9),
        reason="these GPUs have no such products",
    ),
]


def test_rows_are_scaled_to_the_largest_number() -> None:
    x = torch.randn(3, 40, device=DEVICE) * torch.tensor([[1e-3], [1.0], [1e4]], device=DEVICE)
    x[1, 7] = 0.0
    rounded, scale = quantize(x)
    assert rounded.dtype == torch.float8_e4m3fn
    torch.testing.assert_close(scale[:, 0] * 448, x.abs().amax(1))
    exact = (x / scale).to(torch.float8_e4m3fn).float()
    error = (rounded.float() - exact).abs()
    # What is below the smallest normal number, 1/64, the interpreter takes for 0. It loses the carry
    # of what rounds up to a power of two.
    lost = torch.zeros_like(x, dtype=torch.bool)
    if DEVICE.type != "cuda":
        lost = exact.abs().log2().frac() == 0
    assert bool(((error <= exact.abs() * ERROR + 1 / 64) | lost).all())
    assert lost.float().mean() < 0.4


def test_a_row_of_zeros() -> None:
    rounded, scale = quantize(torch.zeros(1, 16, device=DEVICE))
    assert not bool(rounded.float().any())
    assert bool(scale.isfinite().all())


@pytest.mark.skipif(
    DEVICE.type != "cuda" and torch.__version__ < (2, 13),
    reason="on CPUs older versions of torch have one scale for all rows",
)
@pytest.mark.parametrize("bias", [False, True])
def test_product(bias: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(48, 256, device=DEVICE).to(torch.bfloat16) / 16
    linear = Linear(weight, torch.randn(48, device=DEVICE).to(torch.bfloat16) if bias else None)
    x = torch.randn(32, 256, device=DEVICE).to(torch.bfloat16)
    exact = torch.nn.functional.linear(
        x.float(), weight.float(), None if linear.bias is None else linear.bias.float()
    )
    # Outputs have a standard deviation of 1, and errors of the factors add up like noise.
    error = (Fp8Linear.of(linear)(x).float() - exact).std()
    assert error < 0.8 * ERROR
