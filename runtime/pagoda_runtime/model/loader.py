"""Weights for torch: safetensors by mmap, or random ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from pagoda_runtime.config import ConfigError
from pagoda_runtime.model.checkpoint import weight_files
from pagoda_runtime.model.spec import DecoderSpec


def read_weights(
    model_dir: Path, spec: DecoderSpec, dtype: torch.dtype, load_format: str, seed: int
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of `spec.tensor_shapes()` by name, in `dtype`; ConfigError if the directory does
    not hold them.
    """
    if load_format == "dummy":
        yield from dummy_weights(spec, dtype, seed).items()
        return
    shapes = spec.tensor_shapes()
    for file, names in weight_files(model_dir, shapes):
        with safe_open(file, framework="pt") as tensors:
            missing = names - set(tensors.keys())
            if missing:
                raise ConfigError(
                    f"{file.name} has no tensor {min(missing)} ({len(missing)} missing)"
                )
            for name in sorted(names):
                tensor = tensors.get_tensor(name)
                if tuple(tensor.shape) != shapes[name]:
                    raise ConfigError(
                        f"{name} has shape {list(tensor.shape)}, config.json says {list(shapes[name])}"
                    )
                # A tensor already in this dtype stays a view of the mapped file.
                yield name, tensor.to(dtype)


def dummy_weights(spec: DecoderSpec, dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    """Random weights of the right shapes: matrices with variance 1/columns, norms 1, biases 0."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in spec.tensor_shapes().items():
        if name.endswith("norm.weight"):
            weights[name] = torch.ones(shape, dtype=dtype)
        elif name.endswith(".bias"):
            weights[name] = torch.zeros(shape, dtype=dtype)
        else:
            weights[name] = (
                torch.randn(shape, generator=generator).div_(math.sqrt(shape[1])).to(dtype)
            )
    return weights
