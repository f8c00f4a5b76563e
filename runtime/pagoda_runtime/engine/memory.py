"""A step that does not fit in memory: computed in smaller and smaller parts, and only what cannot
be computed at all is given up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from pagoda_runtime.engine.step import Chunk, ChunkOutput, Runner

log = logging.getLogger("pagoda.engine")


def run_in_memory(
    runner: Runner, chunks: Sequence[Chunk], too_large: Callable[[], None]
) -> Sequence[ChunkOutput | None]:
    """Run a step; return what it made of each chunk, None where no memory is left for it. `too_large` is
    called if the whole did not fit.

    Parts give what the whole gives: a row's result depends on its request alone, and running a
    chunk again writes the same into the same slots. They keep the scheduler's order, in which a
    chunk that writes a shared block comes before those that read it.
    """
    try:
        return runner.run(chunks)
    except MemoryError as error:
        log.warning("step does not fit in memory", extra={"reason": str(error)})
        too_large()
    outputs: list[ChunkOutput | None] = []
    for chunk in chunks:
        try:
            outputs.append(_run_halved(runner, chunk))
        except MemoryError:
            outputs.append(None)
    return outputs


def _run_halved(runner: Runner, chunk: Chunk) -> ChunkOutput:
    """Run one chunk, in halves of halves if need be; MemoryError if not even one token fits."""
    try:
        (output,) = runner.run([chunk])
        return output
    except MemoryError:
        if chunk.length == 1:
            raise
    request, middle = chunk.request, chunk.length // 2
    first = _run_halved(runner, Chunk(request, chunk.start, middle))
    if first.hidden_sum is not None:
        request.hidden_sum = first.hidden_sum  # The second half adds to it.
    second = _run_halved(runner, Chunk(request, chunk.start + middle, chunk.length - middle))
    return ChunkOutput(
        second.sampled,
        [*first.prompt_logprobs, *second.prompt_logprobs],
        first.hidden_sum if second.hidden_sum is None else second.hidden_sum,
    )
