"""Which files of a model directory hold its weights. Safetensors only: pickles are never opened."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from pagoda_runtime.config import ConfigError

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def weight_files(
    model_dir: Path, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[Path, set[str]]]:
    """Which file holds which of the wanted tensors; ConfigError if one is nowhere."""
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
