"""The engine's loop, with a runner that needs no model."""

from collections.abc import Sequence
from typing import Any

import pytest
from pagoda_runtime.engine.block_pool import BlockPool
from pagoda_runtime.engine.core import EngineCore
from pagoda_runtime.engine.output import Delta
from pagoda_runtime.engine.request import FinishReason, PoolingParams, Request, SamplingParams
from pagoda_runtime.engine.scheduler import Scheduler
from pagoda_runtime.engine.step import Chunk, ChunkOutput, Sampled


class Counting:
    """Says 1, 2, 3, … to every request, and remembers what it was asked. Position p scores the next
    token with -p, and its hidden state is p.
    """

    def __init__(self) -> None:
        self.seeds: list[int | None] = []

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkOutput]:
        assert chunks
        return [self._output(chunk) for chunk in chunks]

    def _output(self, chunk: Chunk) -> ChunkOutput:
        request = chunk.request
        if isinstance(request.params, PoolingParams):
            (total,) = request.hidden_sum or [0.0]
            return ChunkOutput(hidden_sum=[total + sum(chunk.wanted)])
        self.seeds.append(request.params.seed)
        return ChunkOutput(
            Sampled(request.num_outputs + 1, 0.0) if chunk.samples else None,
            [Sampled(request.prompt_ids[p + 1], float(-p)) for p in chunk.wanted],
        )


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def engine(runner: Counting, clock: Clock, budget: int = 4) -> EngineCore:
    scheduler = Scheduler(
        BlockPool(8, 4), max_num_seqs=2, max_num_batched_tokens=budget, max_model_len=32
    )
    return EngineCore(runner, scheduler, seed=3, clock=clock)


def test_a_request_from_prompt_to_end() -> None:
    clock = Clock()
    core = engine(Counting(), clock)
    core.add(Request("a", [5] * 6, SamplingParams(max_tokens=2), arrival=98.0))
    steps = [core.step() for _ in range(3)]
    assert not core.has_work
    assert [[(d.token_ids, d.finish_reason) for d in deltas] for deltas, _ in steps] == [
        [],
        [([1], None)],
        [([2], FinishReason.LENGTH)],
    ]
    first, second = steps[1][0][0], steps[2][0][0]
    assert (first.queue_time, first.cached_tokens) == (2.0, 0)
    assert (second.queue_time, second.cached_tokens) == (None, None)
    assert first.prompt_logprobs == second.prompt_logprobs == []
    assert [(stats.prompt_tokens, stats.generation_tokens) for _, stats in steps] == [
        (4, 0),
        (2, 1),
        (0, 1),
    ]


@pytest.mark.parametrize("max_tokens", [0, 2])
def test_scores_of_the_prompt_come_with_the_first_token_or_with_the_end(max_tokens: int) -> None:
    core = engine(Counting(), Clock())
    params = SamplingParams(max_tokens=max_tokens, prompt_logprobs=0, logprobs=0)
    core.add(Request("a", [5, 6, 7, 8, 9, 10], params))
    assert core.step()[0] == []
    (first,), stats = core.step()
    assert first.prompt_logprobs == [
        None,
        *(
            Sampled(token, logprob)
            for token, logprob in zip(range(6, 11), range(0, -5, -1), strict=True)
        ),
    ]
    if max_tokens == 0:
        assert (first.token_ids, first.finish_reason) == ([], FinishReason.LENGTH)
        assert first.logprobs == []
    else:
        assert (first.token_ids, first.finish_reason) == ([1], None)
        (second,), _ = core.step()
        assert (second.token_ids, second.prompt_logprobs) == ([2], [])
    assert not core.has_work
    assert stats.generation_tokens == min(1, max_tokens)


def test_a_prompt_of_one_token_has_no_score() -> None:
    core = engine(Counting(), Clock())
    core.add(Request("a", [5], SamplingParams(max_tokens=0, prompt_logprobs=3)))
    (only,), _ = core.step()
    assert only.prompt_logprobs == [None]
    assert only.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(("pooling", "value"), [("last", 5.0), ("mean", 2.5), ("cls", 0.0)])
def test_an_embedding_ends_its_request(pooling: Any, value: float) -> None:
    core = engine(Counting(), Clock())
    core.add(Request("a", [5] * 6, PoolingParams(pooling), arrival=98.0))
    _, first_stats = core.step()
    (only,), stats = core.step()
    assert only == Delta(
        "a", [], FinishReason.STOP, queue_time=2.0, cached_tokens=0, embedding=[value]
    )
    assert (first_stats.prompt_tokens, stats.prompt_tokens, stats.generation_tokens) == (4, 2, 0)
    assert (stats.running, stats.free_blocks) == (0, 8)


def test_cached_tokens_are_those_of_the_first_admission() -> None:
    """Preempted before its first token, it finds its own blocks again: those do not count."""
    core = engine(Counting(), Clock(), budget=2)
    core.add(Request("old", [1] * 4, SamplingParams(max_tokens=25)))
    for _ in range(2):
        core.step()
    core.add(Request("new", [1] * 4 + [2] * 14, SamplingParams(max_tokens=1)))
    deltas = []
    while core.has_work:
        deltas += [delta for delta in core.step()[0] if delta.id == "new"]
    assert core.stats().preemptions_total == 1
    assert [delta.cached_tokens for delta in deltas] == [4]
    assert [delta.num_preemptions for delta in deltas] == [1]


def test_cached_prompt_tokens_are_counted_apart() -> None:
    core = engine(Counting(), Clock())
    for name in ("first", "second"):
        core.add(Request(name, [5] * 10, SamplingParams(max_tokens=2)))
        stats = []
        while core.has_work:
            stats.append(core.step()[1])
        found = 0 if name == "first" else 8
        assert sum(s.prompt_tokens for s in stats) == 10
        assert sum(s.cached_tokens for s in stats) == found
        assert stats[0].cached_tokens == found, "told with the step that found them"


def test_a_passed_deadline_ends_a_request_without_a_token() -> None:
    clock = Clock()
    core = engine(Counting(), clock)
    core.add(Request("a", [5], SamplingParams(max_tokens=9, deadline=101.0)))
    (first,), _ = core.step()
    assert first.finish_reason is None
    clock.now = 101.0
    (last,), stats = core.step()
    assert (last.token_ids, last.finish_reason) == ([], FinishReason.TIMEOUT)
    assert (stats.running, stats.free_blocks) == (0, 8)
    assert not core.has_work


@pytest.mark.parametrize("seed", [0, 7])
def test_a_given_seed_is_kept_and_a_missing_one_drawn(seed: int) -> None:
    runner = Counting()
    core = engine(runner, Clock())
    core.add(Request("given", [5], SamplingParams(max_tokens=1, seed=seed)))
    core.add(Request("drawn", [5], SamplingParams(max_tokens=1)))
    core.step()
    given, drawn = runner.seeds
    assert given == seed
    assert drawn is not None
    again = Counting()
    core = engine(again, Clock())
    core.add(Request("drawn", [5], SamplingParams(max_tokens=1)))
    core.step()
    assert again.seeds == [drawn], "the engine's seed decides"
