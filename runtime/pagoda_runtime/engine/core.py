"""The engine: schedule, run, record; one call of `step` is one pass of the model over a mixed
batch.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from pagoda_runtime.engine.memory import run_in_memory
from pagoda_runtime.engine.output import Delta, Stats
from pagoda_runtime.engine.request import Request, SamplingParams
from pagoda_runtime.engine.scheduler import Scheduler
from pagoda_runtime.engine.step import Runner, Sampled


class EngineCore:
    """Requests go in with `add`, tokens come out of `step`. Not thread safe; one thread owns it."""

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        *,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._random = random.Random(seed)
        self._clock = clock

    @property
    def has_work(self) -> bool:
        """True while `step` has something to compute."""
        return self._scheduler.has_work

    def add(self, request: Request) -> None:
        """Queue a request; ValueError if it can never finish, QueueFullError if not now."""
        if request.params.seed is None:
            request.params = replace(request.params, seed=self._random.getrandbits(63))
        self._scheduler.add(request)

    def abort(self, ids: Iterable[str]) -> None:
        """Forget these requests; their blocks are free when this returns."""
        self._scheduler.abort(ids)

    def step(self) -> tuple[list[Delta], Stats]:
        """Compute one step and return what it brought."""
        now = self._clock()
        deltas = [Delta(r.id, [], r.finish_reason) for r in self._scheduler.expire(now)]
        chunks = self._scheduler.schedule()
        prompt_tokens = 0
        for chunk in chunks:
            request = chunk.request
            if request.scheduled_at is None:
                request.scheduled_at = now
            # A prompt token counts once, even if the cache had it or a preemption makes it computed
            # again.
            done = max(request.prompt_tokens_counted, min(chunk.end, len(request.prompt_ids)))
            prompt_tokens += done - request.prompt_tokens_counted
            request.prompt_tokens_counted = done
        sampled, failed = run_in_memory(self._runner, chunks) if chunks else ({}, [])
        if failed:
            lost = self._scheduler.fail(chunks, failed)
            deltas += [Delta(r.id, [], r.finish_reason) for r in lost]
            chunks = [c for c in chunks if c.request not in lost]
            sampled = {c.request.id: sampled[c.request.id] for c in chunks if c.samples}
        self._scheduler.update(chunks, {name: chosen.token for name, chosen in sampled.items()})
        deltas += [
            self._delta(c.request, sampled[c.request.id]) for c in chunks if c.request.id in sampled
        ]
        return deltas, replace(
            self.stats(),
            prompt_tokens=prompt_tokens,
            generation_tokens=len(sampled),
            step_seconds=self._clock() - now,
        )

    def stats(self) -> Stats:
        """The state now, with no tokens counted."""
        kv = self._scheduler.kv
        return Stats(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            free_blocks=kv.pool.num_free,
            total_blocks=kv.pool.num_blocks,
            preemptions_total=self._scheduler.num_preemptions,
            prefix_cache_queries_total=kv.prefix_queries,
            prefix_cache_hits_total=kv.prefix_hits,
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
        logprobs = [] if request.params.logprobs is None else [sampled]
        return Delta(request.id, [sampled.token], request.finish_reason, queue_time, logprobs)
