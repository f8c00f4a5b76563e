"""The engine's loop, with a runner that needs no model."""

from collections.abc import Sequence

import pytest
from pagoda_runtime.engine.block_pool import BlockPool
from pagoda_runtime.engine.core import EngineCore
from pagoda_runtime.engine.request import FinishReason, Request, SamplingParams
from pagoda_runtime.engine.scheduler import Scheduler
from pagoda_runtime.engine.step import Chunk, ChunkOutput, Sampled


class Counting:
    """Says 1, 2, 3, … to every request, and remembers what it was asked."""

    def __init__(self) -> None:
        self.seeds: list[int | None] = []

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkOutput]:
        assert chunks
        self.seeds += [c.request.params.seed for c in chunks]
        return [
            ChunkOutput(Sampled(c.request.num_outputs + 1) if c.samples else None) for c in chunks
        ]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def engine(runner: Counting, clock: Clock) -> EngineCore:
    scheduler = Scheduler(
        BlockPool(8, 4), max_num_seqs=2, max_num_batched_tokens=4, max_model_len=32
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
    assert steps[1][0][0].queue_time == 2.0
    assert [(stats.prompt_tokens, stats.generation_tokens) for _, stats in steps] == [
        (4, 0),
        (2, 1),
        (0, 1),
    ]


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
