"""Products in 8-bit floating point: weights scaled by output channel, activations by token.

torch._scaled_mm multiplies e4m3 numbers, sums in float32 and takes both scales out at the end. A weight
takes half of bfloat16's memory and bandwidth. The head stays in bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from pagoda_runtime.gpu.kernels.quantize import LARGEST, quantize_kernel
from pagoda_runtime.model.decoder import Layer, Linear, Product, RowParallel

# Shapes that the product takes.
_MULTIPLE = 16


@dataclass(frozen=True)
class Fp8Linear:
    """y = x · weightᵀ + bias; weight [out, in] e4m3, times scale [out, 1] float32."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, linear: Linear) -> Fp8Linear:
        """Round a product's weights."""
        weight, scale = quantize(linear.weight)
        return cls(weight, scale, linear.bias)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in] → [rows, out]."""
        rounded, scale = quantize(x)
        return torch._scaled_mm(
            rounded,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.scale.t(),
            bias=self.bias,
            out_dtype=x.dtype,
        )


def in_fp8(layer: Layer) -> Layer:
    """The layer with the products that fit in 8 bits."""

    def rounded(product: Product) -> Product:
        if isinstance(product, RowParallel):
            return replace(product, product=rounded(product.product))
        assert isinstance(product, Linear)
        fits = all(size % _MULTIPLE == 0 for size in product.weight.shape)
        return Fp8Linear.of(product) if fits else product

    return replace(
        layer,
        qkv=rounded(layer.qkv),
        o=rounded(layer.o),
        gate_up=rounded(layer.gate_up),
        down=rounded(layer.down),
    )


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [rows, size] → e4m3 of the same shape, and what to multiply each row with, [rows, 1] float32."""
    rows, size = x.shape
    out = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty((rows, 1), device=x.device)
    width = triton.next_power_of_2(size)
    quantize_kernel[(rows,)](out, scales, x, LARGEST, SIZE=size, WIDTH=width)
    return out, scales
