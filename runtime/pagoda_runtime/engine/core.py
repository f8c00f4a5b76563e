"""The engine: schedule, run, record; one call of `step` is one pass of the model over a mixed
batch.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import replace

from pagoda_runtime.engine.request import Delta, Request, SamplingParams, Stats
from pagoda_runtime.engine.scheduler import Scheduler
from pagoda_runtime.engine.step import Runner, Sampled


class EngineCore:
    """Requests go in with `add`, tokens come out of `step`. Not thread safe; one thread owns it."""

    def __init__(self, runner: Runner, scheduler: Scheduler, *, seed: int = 0) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._random = random.Random(seed)

    @property
    def has_work(self) -> bool:
        """True while `step` has something to compute."""
        return self._scheduler.has_work

    def add(self, request: Request) -> None:
        """Queue a request; ValueError if it can never finish."""
        if request.params.seed is None:
            request.params = replace(request.params, seed=self._random.getrandbits(63))
        self._scheduler.add(request)

    def abort(self, ids: Iterable[str]) -> None:
        """Forget these requests; their blocks are free when this returns."""
        self._scheduler.abort(ids)

    def step(self) -> tuple[list[Delta], Stats]:
        """Compute one step and return what it brought."""
        chunks = self._scheduler.schedule()
        now = time.monotonic()
        prompt_tokens = 0
        for chunk in chunks:
            request = chunk.request
            if request.scheduled_at is None:
                request.scheduled_at = now
            # A prompt token counts once, even if a preemption makes it computed again.
            done = max(request.prompt_tokens_counted, min(chunk.end, len(request.prompt_ids)))
            prompt_tokens += done - request.prompt_tokens_counted
            request.prompt_tokens_counted = done
        sampled = self._runner.run(chunks)
        self._scheduler.update(chunks, {name: chosen.token for name, chosen in sampled.items()})
        deltas = [
            self._delta(c.request, sampled[c.request.id]) for c in chunks if c.request.id in sampled
        ]
        return deltas, replace(
            self.stats(), prompt_tokens=prompt_tokens, generation_tokens=len(sampled)
        )

    def stats(self) -> Stats:
        """The state now, with no tokens counted."""
        pool = self._scheduler.pool
        return Stats(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            free_blocks=pool.num_free,
            total_blocks=pool.num_blocks,
            preemptions_total=self._scheduler.num_preemptions,
        )

    def self_test(self) -> None:
        """Generate one token, so that the first request meets a model that is known to work."""
        self.add(Request("self-test", [0], SamplingParams(max_tokens=1, temperature=0.0)))
        while self.has_work:
            self.step()

    @staticmethod
    def _delta(request: Request, sampled: Sampled) -> Delta:
        first = request.num_outputs == 1 and request.scheduled_at is not None
        queue_time = (
            request.scheduled_at - request.arrival if first and request.scheduled_at else None
        )
        return Delta(request.id, [sampled.token], request.finish_reason, queue_time)
