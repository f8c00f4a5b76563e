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
from pagoda_runtime.model.shard import Shard
from pagoda_runtime.model.spec import DecoderSpec


def read_weights(
    model_dir: Path, shard: Shard, dtype: torch.dtype, load_format: str, seed: int
) -> Iterator[tuple[str, Tensor]]:
    """The shard's part of every tensor by name, in `dtype`; ConfigError if the directory does not hold
    them. Of a matrix that is divided no more than that part is ever read.
    """
    if load_format == "dummy":
        for name, tensor in _random(shard.whole, dtype, seed):
            if shard.holds(name):
                part = shard.slices(name)
                # A copy, so that the whole is freed.
                yield name, tensor if part is None else tensor[part].clone()
        return
    shapes = shard.whole.tensor_shapes()
    for file, names in weight_files(model_dir, shapes):
        with safe_open(file, framework="pt") as tensors:
            missing = names - set(tensors.keys())
            if missing:
                raise ConfigError(
                    f"{file.name} has no tensor {min(missing)} ({len(missing)} missing)"
                )
            for name in sorted(names):
                stored = tensors.get_slice(name)
                if (shape := stored.get_shape()) != list(shapes[name]):
                    raise ConfigError(
                        f"{name} has shape {shape}, config.json says {list(shapes[name])}"
                    )
                if shard.holds(name):
                    part = shard.slices(name)
                    tensor = tensors.get_tensor(name) if part is None else stored[part]
                    # Whole rows that are in this dtype already stay a view of the mapped file.
                    yield name, tensor.to(dtype).contiguous()


def dummy_weights(spec: DecoderSpec, dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    """Random weights of the right shapes: matrices with variance 1/columns, norms 1, biases 0."""
    return dict(_random(spec, dtype, seed))


def _random(spec: DecoderSpec, dtype: torch.dtype, seed: int) -> Iterator[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for name, shape in spec.tensor_shapes().items():
        if name.endswith("norm.weight"):
            yield name, torch.ones(shape, dtype=dtype)
        elif name.endswith(".bias"):
            yield name, torch.zeros(shape, dtype=dtype)
        else:
            random = torch.randn(shape, generator=generator)
            yield name, random.div_(math.sqrt(shape[1])).to(dtype)
