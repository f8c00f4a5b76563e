"""A step of decodes that is launched before anybody asks for it.

What a decode needs of the step before is its token, and that is on the device already. So while the
host waits for that token, sends it on and schedules, the GPU computes the next step. The scheduler
knows nothing of it: when it asks for what has been computed, it gets it; what it does not ask for, as
the request has ended, is forgotten.

That is right because a row depends on its request alone, and because the device does things in the
order in which they were launched. What a forgotten decode stored is in a block that was the request's
then; whoever has the block next writes to it later. What has been computed counts for a request only if
it was not preempted in between: then its keys and values are in blocks that it has lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pagoda_runtime.engine.request import Request
from pagoda_runtime.engine.step import Chunk


class Ahead:
    """Decodes that are launched."""

    def __init__(
        self, requests: Sequence[Request], device_tokens: Tensor, fetched: Callable[[], list[int]]
    ) -> None:
        """Remember them.

        Args:
            requests: of the rows; their last tokens are not known yet.
            device_tokens: what the step chooses, [rows or more] int32.
            fetched: waits for it.
        """
        self.device_tokens = device_tokens
        self.tokens = fetched
        self._rows = {
            request.id: (row, request, request.num_tokens, request.num_preemptions)
            for row, request in enumerate(requests)
        }

    def row_of(self, chunk: Chunk) -> int | None:
        """The row that is this chunk; None if there is none."""
        row, *computed = self._rows.get(chunk.request.id, (None,))
        asked = [chunk.request, chunk.start, chunk.request.num_preemptions]
        return row if computed == asked and chunk.length == 1 and chunk.samples else None


class TokenFetcher:
    """Copies tokens to the host while the device goes on."""

    def __init__(self, most: int, device: torch.device) -> None:
        # Two: the next step's are fetched before the last one's are read.
        self._buffers = [
            torch.empty(most, dtype=torch.int32, pin_memory=device.type == "cuda") for _ in range(2)
        ]
        self._on_gpu = device.type == "cuda"

    def __call__(self, tokens: Tensor) -> Callable[[], list[int]]:
        """Begin to copy tokens [at most `most`] int32; what is returned waits for them."""
        self._buffers.reverse()
        buffer = self._buffers[0][: len(tokens)]
        buffer.copy_(tokens, non_blocking=True)
        if not self._on_gpu:
            return buffer.tolist
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()

        def fetched() -> list[int]:
            copied.synchronize()
            tokens: list[int] = buffer.tolist()
            return tokens

        return fetched
