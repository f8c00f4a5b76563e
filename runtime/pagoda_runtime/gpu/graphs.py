"""Decode steps as CUDA graphs: what the host would launch kernel by kernel is launched at once.

A step of n decodes runs the graph of the next larger size; the rows too many store nothing and
attend to nothing. All graphs share their memory, the largest first.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pagoda_runtime.gpu.batch import Step, StepBuffers


@dataclass(frozen=True)
class Output:
    """What a step of decodes left on the device: logits [rows, vocab], tokens [rows] int32."""

    logits: Tensor
    tokens: Tensor


def sizes(most: int) -> list[int]:
    """The sizes to capture for at most so many decodes: 1, 2, 4, then every eighth."""
    return sorted({*(n for n in (1, 2, 4) if n < most), *range(8, most, 8), most})


class DecodeGraphs:
    """The captured steps."""

    def __init__(self, buffers: StepBuffers, compute: Callable[[Step], Output], most: int) -> None:
        """Capture `compute`, which must have run before: what is compiled cannot be captured."""
        self._sizes = sizes(most)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Output]] = {}
        pool = torch.cuda.graph_pool_handle()
        for size in reversed(self._sizes):
            step = buffers.decodes(size)
            compute(step)  # each size has kernels of its own
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            # NCCL's watchdog, a thread of its own, may ask for events meanwhile.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                output = compute(step)
            self._graphs[size] = graph, output

    def size_for(self, decodes: int) -> int:
        """The rows of the graph that so many decodes run; at most as many as were captured."""
        return self._sizes[bisect_left(self._sizes, decodes)]

    def replay(self, size: int) -> Output:
        """Run the graph of this size on what is in the buffers."""
        graph, output = self._graphs[size]
        graph.replay()
        return output
