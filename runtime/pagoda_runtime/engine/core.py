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
from pagoda_runtime.engine.request import FinishReason, PoolingParams, Request, SamplingParams
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
        if isinstance(request.params, SamplingParams) and request.params.seed is None:
            request.params = replace(request.params, seed=self._random.getrandbits(63))
        self._scheduler.add(request)

    def abort(self, ids: Iterable[str]) -> None:
        """Forget these requests; their blocks are free when this returns."""
        self._scheduler.abort(ids)

    def step(self, now: float | None = None) -> tuple[list[Delta], Stats]:
        """Compute one step and return what it brought. Engines that run in step share its time, `now`:
        what is past its deadline for one must be for all.
        """
        now = self._clock() if now is None else now
        deltas = [_ended(request) for request in self._scheduler.expire(now)]
        chunks = self._scheduler.schedule()
        prompt_tokens = cached_tokens = 0
        for chunk in chunks:
            request = chunk.request
            if request.scheduled_at is None:
                request.scheduled_at = now
            if request.prompt_tokens_counted == 0:
                cached_tokens += request.num_cached or 0
            # A prompt token counts once, even if the cache had it or a preemption makes it computed
            # again.
            counted = max(request.prompt_tokens_counted, min(chunk.end, len(request.prompt_ids)))
            prompt_tokens += counted - request.prompt_tokens_counted
            request.prompt_tokens_counted = counted
        shrink = self._scheduler.shrink_budget
        outputs = run_in_memory(self._runner, chunks, shrink) if chunks else []
        if failed := [c for c, output in zip(chunks, outputs, strict=True) if output is None]:
            lost = self._scheduler.fail(chunks, failed)
            deltas += [_ended(request) for request in lost]
        done = [
            (chunk, output)
            for chunk, output in zip(chunks, outputs, strict=True)
            if output is not None and chunk.request.finish_reason is None
        ]
        tokens = {}
        for chunk, output in done:
            if output.prompt_logprobs:
                chunk.request.prompt_logprobs += output.prompt_logprobs
            if output.hidden_sum is not None:
                chunk.request.hidden_sum = output.hidden_sum
            if output.sampled is not None:
                tokens[chunk.request.id] = output.sampled.token
        self._scheduler.update([chunk for chunk, _ in done], tokens)
        deltas += [
            _delta(chunk.request, output.sampled)
            for chunk, output in done
            if output.sampled is not None or chunk.request.finish_reason is not None
        ]
        return deltas, replace(
            self.stats(),
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            generation_tokens=len(tokens),
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
        """Generate one token, so that the first request meets a model that is known to work;
        MemoryError if there is none left for it.
        """
        request = Request("self-test", [0], SamplingParams(max_tokens=1, temperature=0.0))
        self.add(request)
        while self.has_work:
            self.step()
        if request.finish_reason is FinishReason.ERROR:
            raise MemoryError("there is no memory left to compute one token")


def _ended(request: Request) -> Delta:
    """What a request hears that ends without an answer."""
    reason, preemptions = request.finish_reason, request.num_preemptions
    return Delta(request.id, [], reason, num_preemptions=preemptions)


def _delta(request: Request, sampled: Sampled | None) -> Delta:
    """What a request hears of a step that sampled its next token or, without one, ended it."""
    logprobs = [sampled] if sampled is not None and request.sampling.logprobs is not None else []
    tokens = [] if sampled is None else [sampled.token]
    delta = Delta(
        request.id,
        tokens,
        request.finish_reason,
        logprobs=logprobs,
        num_preemptions=request.num_preemptions,
    )
    return delta if request.num_outputs > 1 else _first(request, delta)


def _first(request: Request, delta: Delta) -> Delta:
    """With what comes once: how the request began and what was read of its prompt."""
    assert request.scheduled_at is not None
    params, scores, embedding = request.params, [], None
    if isinstance(params, PoolingParams):
        assert request.hidden_sum is not None
        embedding = [total / len(request.wanted) for total in request.hidden_sum]
    elif params.prompt_logprobs is not None:
        scores = [None, *request.prompt_logprobs]
        request.prompt_logprobs = []
    return replace(
        delta,
        queue_time=request.scheduled_at - request.arrival,
        prompt_logprobs=scores,
        cached_tokens=request.num_cached,
        embedding=embedding,
    )
