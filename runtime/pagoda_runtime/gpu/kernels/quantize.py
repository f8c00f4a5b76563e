"""Rounding rows to 8-bit floating point (e4m3)."""

from __future__ import annotations

import triton
import triton.language as tl

LARGEST = 448.0
"""The largest e4m3 number."""


@triton.jit
def quantize_kernel(out, scales, x, largest, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    """One row: its largest number becomes the format's largest."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, WIDTH)
    is_in = i < SIZE
    value = tl.load(x + row * SIZE + i, mask=is_in, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(value), 0), 1e-12) / largest
    tl.store(scales + row, scale)
    # Rounding may take the largest number past the format's, which has no infinity.
    scaled = tl.minimum(tl.maximum(value / scale, -largest), largest)
    tl.store(out + row * SIZE + i, scaled.to(out.dtype.element_ty), mask=is_in)
