"""The engine: schedule, run, record; one call of `step` is one pass of the model over a mixed
batch.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from pagoda_runtime.attention.base import KVLayout
from pagoda_runtime.attention.paged_torch import PagedTorchAttention
from pagoda_runtime.config import EngineConfig
from pagoda_runtime.engine.block_pool import BlockPool
from pagoda_runtime.engine.kv_size import KVSize, size_kv_cache
from pagoda_runtime.engine.request import Delta, Request, SamplingParams, Stats
from pagoda_runtime.engine.runner import ModelRunner
from pagoda_runtime.engine.scheduler import Chunk, Scheduler
from pagoda_runtime.model.decoder import Decoder
from pagoda_runtime.model.loader import choose_dtype, load_weights
from pagoda_runtime.model.spec import DecoderSpec, read_spec


class Runner(Protocol):
    """What the engine asks of a model."""

    def run(self, chunks: Sequence[Chunk]) -> dict[str, int]:
        """Next token by request id, for every chunk that samples."""


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
        self._scheduler.update(chunks, sampled)
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
    def _delta(request: Request, token: int) -> Delta:
        first = request.num_outputs == 1 and request.scheduled_at is not None
        queue_time = (
            request.scheduled_at - request.arrival if first and request.scheduled_at else None
        )
        return Delta(request.id, [token], request.finish_reason, queue_time)


def build_engine(config: EngineConfig) -> tuple[EngineCore, KVSize, DecoderSpec]:
    """Load the model and put the engine around it; ConfigError says what cannot work."""
    model_dir = Path(config.model)
    spec = read_spec(model_dir)
    dtype = choose_dtype(config.dtype, spec)
    size = size_kv_cache(config, spec, dtype.itemsize)
    weights = load_weights(model_dir, spec, dtype, config.load_format, config.seed)
    decoder = Decoder(spec, weights, size.max_model_len)
    attention = PagedTorchAttention(spec, KVLayout(size.num_blocks, config.block_size, dtype))
    scheduler = Scheduler(
        BlockPool(size.num_blocks, config.block_size),
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=size.max_model_len,
    )
    return EngineCore(ModelRunner(decoder, attention), scheduler, seed=config.seed), size, spec
