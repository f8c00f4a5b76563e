"""Weights from a model directory: safetensors by mmap, or random ones. Pickles are never opened."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from pagoda_runtime.config import ConfigError
from pagoda_runtime.model.spec import DecoderSpec

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def load_weights(
    model_dir: Path, spec: DecoderSpec, dtype: torch.dtype, load_format: str, seed: int
) -> dict[str, Tensor]:
    """Every tensor of `spec.tensor_shapes()`, in `dtype`; ConfigError if the directory does not
    hold them.
    """
    if load_format == "dummy":
        return dummy_weights(spec, dtype, seed)
    shapes = spec.tensor_shapes()
    weights: dict[str, Tensor] = {}
    for file, names in _files(model_dir, shapes):
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
                weights[name] = tensor.to(dtype)
    return weights


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


def _files(
    model_dir: Path, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[Path, set[str]]]:
    """Which file holds which of the wanted tensors."""
    index, single = model_dir / "model.safetensors.index.json", model_dir / "model.safetensors"
    if index.is_file():
        where: dict[str, str] = json.loads(index.read_text())["weight_map"]
        missing = set(shapes) - set(where)
        if missing:
            raise ConfigError(f"{index.name} has no tensor {min(missing)} ({len(missing)} missing)")
        for name in sorted({where[tensor] for tensor in shapes}):
            # The index comes from the same place as the weights, but it may only name files beside
            # it.
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise ConfigError(
                    f"{index.name} names {name!r}, which is not a safetensors file beside it"
                )
            if not (model_dir / name).is_file():
                raise ConfigError(f"{index.name} names {name}, which is missing")
            yield model_dir / name, {tensor for tensor in shapes if where[tensor] == name}
    elif single.is_file():
        yield single, set(shapes)
    elif any(file for pattern in _PICKLES for file in model_dir.glob(pattern)):
        raise ConfigError(
            f"{model_dir} holds only pickled weights, which can run code when opened: convert them "
            "to safetensors"
        )
    else:
        raise ConfigError(f"{model_dir} holds no model.safetensors and no {index.name}")
