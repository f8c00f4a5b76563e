"""How far the model is loaded, told while it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from pagoda_runtime.model.spec import DTYPE_BYTES, DecoderSpec, DType

T = TypeVar("T")
# Often enough for a person or a probe, rarely enough to cost nothing.
_TELL_SECONDS = 0.2


class LoadProgress:
    """Bytes of weights loaded, of all there are, both as they are counted in `dtype`.

    `tell(loaded, total)` is called now and then, and when all is loaded.
    """

    def __init__(self, spec: DecoderSpec, dtype: DType, tell: Callable[[int, int], None]) -> None:
        size = DTYPE_BYTES[dtype]
        self._bytes = {name: math.prod(s) * size for name, s in spec.tensor_shapes().items()}
        self._tell = tell
        self._told_at = time.monotonic()
        self.total = sum(self._bytes.values())
        self.loaded = 0
        tell(0, self.total)

    def watch(self, tensors: Iterable[tuple[str, T]]) -> Iterator[tuple[str, T]]:
        """Pass tensors on, by name; one counts as loaded when the next is asked for."""
        for name, tensor in tensors:
            yield name, tensor
            self.on_tensor(name)

    def on_tensor(self, name: str) -> None:
        """Count a tensor as loaded."""
        self.loaded += self._bytes[name]
        now = time.monotonic()
        if now >= self._told_at + _TELL_SECONDS or self.loaded == self.total:
            self._told_at = now
            self._tell(self.loaded, self.total)
