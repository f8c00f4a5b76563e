"""A step that does not fit in memory: computed in smaller and smaller parts, and only what cannot
be computed at all is given up.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pagoda_runtime.engine.step import Chunk, Runner, Sampled

log = logging.getLogger("pagoda.engine")


def run_in_memory(
    runner: Runner, chunks: Sequence[Chunk]
) -> tuple[dict[str, Sampled], list[Chunk]]:
    """Run a step; return what was sampled, by request id, and the chunks that no memory is left for.

    Parts give what the whole gives: a row's result depends on its request alone, and running a
    chunk again writes the same into the same slots. They keep the scheduler's order, in which a
    chunk that writes a shared block comes before those that read it.
    """
    try:
        return runner.run(chunks), []
    except MemoryError as error:
        log.warning("step does not fit in memory", extra={"reason": str(error)})
    sampled: dict[str, Sampled] = {}
    failed = []
    for chunk in chunks:
        try:
            sampled |= _run_halved(runner, chunk)
        except MemoryError:
            failed.append(chunk)
    return sampled, failed


def _run_halved(runner: Runner, chunk: Chunk) -> dict[str, Sampled]:
    """Run one chunk, in halves of halves if need be; MemoryError if not even one token fits."""
    try:
        return runner.run([chunk])
    except MemoryError:
        if chunk.length == 1:
            raise
    middle = chunk.length // 2
    _run_halved(runner, Chunk(chunk.request, chunk.start, middle))
    return _run_halved(runner, Chunk(chunk.request, chunk.start + middle, chunk.length - middle))
