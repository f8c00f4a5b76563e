"""Weights for the library, one tensor at a time, without torch: views of mapped safetensors, or
random ones.

Tensors are float32, or uint16 holding bfloat16, which numpy has no type for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from pagoda_runtime.config import ConfigError
from pagoda_runtime.model.checkpoint import weight_files
from pagoda_runtime.model.spec import DecoderSpec

Array = npt.NDArray[Any]

_TYPES = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}


def read_weights(
    model_dir: Path, spec: DecoderSpec, load_format: str, seed: int
) -> Iterator[tuple[str, Array]]:
    """Every tensor of `spec.tensor_shapes()` by name; ConfigError if the directory does not hold
    them.
    """
    if load_format == "dummy":
        yield from dummy_weights(spec, seed)
        return
    shapes = spec.tensor_shapes()
    for file, names in weight_files(model_dir, shapes):
        tensors = _Tensors(file)
        for name in sorted(names):
            yield name, tensors.get(name, shapes[name])


def dummy_weights(spec: DecoderSpec, seed: int) -> Iterator[tuple[str, Array]]:
    """Random bfloat16 weights of the right shapes: matrices uniform with variance 1/columns, norms
    1, biases 0.
    """
    for index, (name, shape) in enumerate(spec.tensor_shapes().items()):
        if name.endswith("norm.weight"):
            values = np.ones(shape, np.float32)
        elif name.endswith(".bias"):
            values = np.zeros(shape, np.float32)
        else:
            values = np.random.default_rng((seed, index)).random(shape, np.float32)
            values -= np.float32(0.5)
            values *= np.float32(math.sqrt(12 / shape[1]))
        # Cutting off the lower half is a rounding towards zero, which random numbers can bear.
        yield name, np.ascontiguousarray(values.view(np.uint16)[..., 1::2])


class _Tensors:
    """Views of one mapped file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            # Checks the header: offsets, overlaps, the file's length.
            with safe_open(file, framework="np"):
                pass
        except SafetensorError as error:
            raise ConfigError(f"{file.name} is damaged: {error}") from error
        # The format: length of the header in 8 bytes, the header in JSON, the tensors' bytes.
        self._bytes = np.memmap(file, np.uint8, mode="r")
        length = int(self._bytes[:8].view(np.uint64)[0])
        self._header: dict[str, dict[str, Any]] = json.loads(self._bytes[8 : 8 + length].tobytes())
        self._data = self._bytes[8 + length :]

    def get(self, name: str, shape: tuple[int, ...]) -> Array:
        """A tensor, or a copy of it where it is float16; ConfigError if it is not there."""
        if name not in self._header:
            raise ConfigError(f"{self._file.name} has no tensor {name}")
        entry = self._header[name]
        if tuple(entry["shape"]) != shape:
            raise ConfigError(f"{name} has shape {entry['shape']}, config.json says {list(shape)}")
        if entry["dtype"] not in _TYPES:
            raise ConfigError(
                f"{name} has type {entry['dtype']}, supported are: {', '.join(_TYPES)}"
            )
        begin, end = entry["data_offsets"]
        tensor = self._data[begin:end].view(_TYPES[entry["dtype"]]).reshape(shape)
        return tensor.astype(np.float32) if tensor.dtype == np.float16 else tensor
