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


class Decodes:
    """Decode steps of certain sizes, each launched kernel by kernel: where there are no graphs."""

    def __init__(self, buffers: StepBuffers, compute: Callable[[Step], Output], most: int) -> None:
        """Prepare.

        Args:
            buffers: where the steps will be.
            compute: a step of decodes.
            most: the most decodes in a step.
        """
        self._sizes = sizes(most)
        self._compute = compute
        self._steps = {size: buffers.padding(size) for size in self._sizes}

    def size_for(self, decodes: int) -> int:
        """The rows of the step that so many decodes run."""
        return self._sizes[bisect_left(self._sizes, decodes)]

    def run(self, size: int) -> Output:
        """Compute the step of this size on what is in the buffers."""
        return self._compute(self._steps[size])


class DecodeGraphs(Decodes):
    """The same, captured."""

    def __init__(self, buffers: StepBuffers, compute: Callable[[Step], Output], most: int) -> None:
        """Capture them all."""
        super().__init__(buffers, compute, most)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Output]] = {}
        pool = torch.cuda.graph_pool_handle()
        for size in reversed(self._sizes):
            super().run(size)  # what is compiled on its first run cannot be captured
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            # NCCL's watchdog, a thread of its own, may ask for events meanwhile.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                output = super().run(size)
            self._graphs[size] = graph, output

    def run(self, size: int) -> Output:
        """Replay the graph of this size."""
        graph, output = self._graphs[size]
        graph.replay()
        return output
