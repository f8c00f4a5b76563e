"""Steps that do not fit in memory: others are not harmed, and nobody reads what was not written."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pagoda_runtime.engine import scheduler as scheduling
from pagoda_runtime.engine.block_pool import BlockPool
from pagoda_runtime.engine.core import EngineCore
from pagoda_runtime.engine.request import FinishReason, Request, SamplingParams
from pagoda_runtime.engine.scheduler import Scheduler
from pagoda_runtime.engine.step import Chunk, ChunkOutput, Sampled

BLOCK = 4


class Small:
    """A machine with memory for `room` tokens in a step, and none at all for position `hole` of the
    requests in `unlucky`. Its KV cache holds whole prefixes, so that every wrong block is found.
    """

    def __init__(self, room: int, unlucky: set[str], hole: int) -> None:
        self.room, self._unlucky, self._hole = room, unlucky, hole
        self._slots: dict[tuple[int, int], tuple[int, ...]] = {}
        self.misled: set[str] = set()  # who read what is not theirs

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkOutput]:
        for chunk in chunks:
            if chunk.request.id in self._unlucky and chunk.start <= self._hole < chunk.end:
                raise MemoryError
        if sum(chunk.length for chunk in chunks) > self.room:
            raise MemoryError
        for chunk in chunks:
            before = self._read(chunk, chunk.start)
            for position in range(chunk.start, chunk.end):
                self._slots[slot(chunk, position)] = prefix(chunk, position) if before else ()
        self.misled |= {c.request.id for c in chunks if not self._read(c, c.end)}
        return [ChunkOutput(Sampled(c.request.num_tokens) if c.samples else None) for c in chunks]

    def _read(self, chunk: Chunk, end: int) -> bool:
        return all(self._slots.get(slot(chunk, p)) == prefix(chunk, p) for p in range(end))


def slot(chunk: Chunk, position: int) -> tuple[int, int]:
    return chunk.request.block_table[position // BLOCK], position % BLOCK


def prefix(chunk: Chunk, position: int) -> tuple[int, ...]:
    return tuple(chunk.request.token_ids[: position + 1])


@given(
    prompts=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 1)), min_size=1, max_size=8),
    room=st.integers(1, 20),
    unlucky=st.sets(st.integers(0, 7)),
    hole=st.integers(0, 40),
    pause=st.integers(0, 3),
)
def test_only_what_has_no_memory_fails(
    prompts: list[tuple[int, int]], room: int, unlucky: set[int], hole: int, pause: int
) -> None:
    scheduler = Scheduler(
        BlockPool(24, BLOCK), max_num_seqs=4, max_num_batched_tokens=16, max_model_len=48
    )
    runner = Small(room, {str(i) for i in unlucky}, hole)
    core = EngineCore(runner, scheduler)
    ends: dict[str, FinishReason] = {}
    tokens: dict[str, int] = {}

    def step() -> None:
        for delta in core.step()[0]:
            assert not delta.token_ids or delta.id not in runner.misled
            tokens[delta.id] = tokens.get(delta.id, 0) + len(delta.token_ids)
            if delta.finish_reason is not None:
                assert delta.id not in ends
                ends[delta.id] = delta.finish_reason

    for index, (length, variant) in enumerate(prompts):
        # They share beginnings, so that some find blocks of others that fail.
        core.add(Request(str(index), [1] * (length // 2) + [variant] * 8, SamplingParams(6)))
        for _ in range(pause):
            step()
    while core.has_work:
        step()
    assert core.stats().free_blocks == 24
    assert ends.keys() == {str(i) for i in range(len(prompts))}
    for name, reason in ends.items():
        if reason is FinishReason.LENGTH:
            assert tokens[name] == 6
        else:
            assert reason is FinishReason.ERROR
            assert unlucky, "a step that only is too large loses nobody"


def test_an_engine_that_has_no_memory_for_one_token_does_not_start() -> None:
    scheduler = Scheduler(
        BlockPool(24, BLOCK), max_num_seqs=4, max_num_batched_tokens=16, max_model_len=48
    )
    EngineCore(Small(1, set(), 0), scheduler).self_test()
    with pytest.raises(MemoryError, match="one token"):
        EngineCore(Small(0, set(), 0), scheduler).self_test()


def test_the_steps_after_it_are_smaller_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "SMALLER_STEPS", 2)
    scheduler = Scheduler(
        BlockPool(60, BLOCK), max_num_seqs=3, max_num_batched_tokens=16, max_model_len=200
    )
    runner = Small(room=5, unlucky=set(), hole=0)
    core = EngineCore(runner, scheduler)
    core.add(Request("a", [1] * 160, SamplingParams(2)))

    def sizes(steps: int) -> list[int]:
        return [core.step()[1].prompt_tokens for _ in range(steps)]

    # 16 do not fit, nor 8; 4 do. After two steps 8 are tried again.
    assert sizes(7) == [16, 8, 4, 4, 8, 4, 4]
    runner.room = 100
    assert sizes(6) == [8, 8, 16, 16, 16, 16], "there is memory again"


def test_steps_that_are_smaller_have_a_token_for_each_request() -> None:
    scheduler = Scheduler(
        BlockPool(24, BLOCK), max_num_seqs=3, max_num_batched_tokens=16, max_model_len=48
    )
    core = EngineCore(Small(room=100, unlucky=set(), hole=0), scheduler)
    for name in "abc":
        core.add(Request(name, [1, 2], SamplingParams(9)))
    core.step()
    for _ in range(5):
        scheduler.shrink_budget()
    assert [chunk.length for chunk in scheduler.schedule()] == [1, 1, 1]
