"""What the scheduler promises, for any mix of requests, aborts, pool sizes and budgets."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pagoda_runtime.engine.block_pool import BlockPool
from pagoda_runtime.engine.request import FinishReason, Request, SamplingParams
from pagoda_runtime.engine.scheduler import Scheduler
from pagoda_runtime.engine.step import Chunk

EOS = 7


def request(name: str, prompt: int, answer: int) -> Request:
    params = SamplingParams(max_tokens=answer, stop_token_ids=(EOS,))
    return Request(name, [1] * prompt, params)


def scheduler(
    blocks: int = 64, *, block_size: int = 4, seqs: int = 8, budget: int = 16
) -> Scheduler:
    return Scheduler(
        BlockPool(blocks, block_size),
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        max_model_len=blocks * block_size,
    )


def shape(chunks: list[Chunk]) -> list[tuple[str, int, int]]:
    return [(c.request.id, c.start, c.end) for c in chunks]


def step(s: Scheduler, token: int = 1) -> list[tuple[str, int, int]]:
    chunks = s.schedule()
    result = shape(chunks)
    s.update(chunks, {c.request.id: token for c in chunks if c.samples})
    return result


# --- one rule at a time -------------------------------------------------------------------------


def test_decodes_come_before_prefill_chunks_in_one_step() -> None:
    s = scheduler(budget=8)
    s.add(request("a", 3, 9))
    assert step(s) == [("a", 0, 3)]
    s.add(request("b", 10, 9))
    assert step(s) == [("a", 3, 4), ("b", 0, 7)]
    assert step(s) == [("a", 4, 5), ("b", 7, 10)]
    assert step(s) == [("a", 5, 6), ("b", 10, 11)]


def test_first_come_first_served_even_if_a_later_one_would_fit() -> None:
    s = scheduler(blocks=8, budget=32)
    s.add(request("a", 16, 8))
    assert step(s) == [("a", 0, 16)]
    s.add(request("long", 20, 4))
    s.add(request("short", 1, 1))
    assert step(s) == [("a", 16, 17)]
    assert [r.id for r in s.waiting] == ["long", "short"]


def test_the_newest_is_preempted_and_starts_over() -> None:
    s = scheduler(blocks=6, budget=32)
    s.add(request("old", 8, 16))
    s.add(request("new", 8, 12))
    assert step(s) == [("old", 0, 8), ("new", 0, 8)]
    for n in range(4):
        assert step(s) == [("old", 8 + n, 9 + n), ("new", 8 + n, 9 + n)]
    assert step(s) == [("old", 12, 13)]  # Both need a fourth block.
    assert s.num_preemptions == 1
    (victim,) = s.waiting
    assert (victim.id, victim.num_computed, victim.num_outputs) == ("new", 0, 5)
    while "new" not in (steps := {c[0]: c for c in step(s)}):
        pass
    assert steps["new"] == ("new", 0, 13)  # Prompt and the answer so far, in one go.


@pytest.mark.parametrize(("prompt", "answer"), [(0, 1), (1, 0), (20, 13), (33, 1)])
def test_a_request_that_can_never_finish_is_refused(prompt: int, answer: int) -> None:
    s = scheduler(blocks=8)
    with pytest.raises(ValueError, match=r"needs a prompt|context length of 32"):
        s.add(request("x", prompt, answer))
    assert not s.has_work


def test_a_request_that_needs_every_block_runs() -> None:
    s = scheduler(blocks=8, budget=8)
    s.add(request("whole", 20, 12))
    steps = 0
    while s.has_work:
        step(s)
        steps += 1
    assert steps == 3 + 11
    assert s.pool.num_free == 8


def test_a_prompt_that_needs_every_block_is_admitted() -> None:
    s = scheduler(blocks=8, budget=32)
    s.add(request("whole", 31, 1))
    assert step(s) == [("whole", 0, 31)]


def test_end_of_sequence_ends() -> None:
    s = scheduler()
    a = request("a", 2, 9)
    s.add(a)
    step(s)
    step(s, token=EOS)
    assert a.finish_reason is FinishReason.STOP
    assert not s.has_work


# --- all rules at once --------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrival:
    prompt: int
    answer: int
    steps_before: int
    aborted_after: int | None
    stops_at: int | None


arrivals = st.builds(
    Arrival,
    prompt=st.integers(1, 40),
    answer=st.integers(1, 24),
    steps_before=st.integers(0, 6),
    aborted_after=st.none() | st.integers(0, 20),
    stops_at=st.none() | st.integers(1, 24),
)


@settings(max_examples=300, deadline=None)
@given(
    plan=st.lists(arrivals, min_size=1, max_size=10),
    block_size=st.integers(1, 8),
    spare_blocks=st.integers(0, 12),
    seqs=st.integers(1, 6),
    spare_budget=st.integers(0, 20),
)
def test_promises(
    plan: list[Arrival], block_size: int, spare_blocks: int, seqs: int, spare_budget: int
) -> None:
    longest = max(a.prompt + a.answer for a in plan)
    s = Scheduler(
        BlockPool(-(-longest // block_size) + spare_blocks, block_size),
        max_num_seqs=seqs,
        max_num_batched_tokens=seqs + spare_budget,
        max_model_len=longest,
    )
    requests = [request(str(i), a.prompt, a.answer) for i, a in enumerate(plan)]
    abort_at: dict[int, list[str]] = {}
    clock = 0

    def one_step() -> None:
        nonlocal clock
        s.abort(abort_at.pop(clock, []))
        check_blocks(s)
        oldest = s.running[0] if s.running else None
        chunks = s.schedule()
        check_step(s, chunks, oldest)
        sampled = {c.request.id: next_token(plan, c.request) for c in chunks if c.samples}
        s.update(chunks, sampled)
        check_blocks(s)
        clock += 1

    for r, a in zip(requests, plan, strict=True):
        for _ in range(a.steps_before):
            one_step()
        s.add(r)
        if a.aborted_after is not None:
            abort_at.setdefault(clock + a.aborted_after, []).append(r.id)

    # Each step at least one request computes a token, and only preemption makes it compute one
    # again.
    bound = clock + sum(a.prompt + a.answer for a in plan) * (1 + len(plan)) + 21
    while s.has_work:
        one_step()
        assert clock <= bound

    assert s.pool.num_free == s.pool.num_blocks
    for r, a in zip(requests, plan, strict=True):
        length = min(a.answer, a.stops_at or a.answer)
        if r.finish_reason is FinishReason.ABORT:
            assert a.aborted_after is not None
            assert r.num_outputs < length
        else:
            assert r.num_outputs == length
            assert r.finish_reason is (
                FinishReason.STOP if a.stops_at == length else FinishReason.LENGTH
            )


def next_token(plan: list[Arrival], r: Request) -> int:
    return EOS if r.num_outputs + 1 == plan[int(r.id)].stops_at else 1


def check_step(s: Scheduler, chunks: list[Chunk], oldest: Request | None) -> None:
    assert bool(chunks) == s.has_work
    assert sum(c.length for c in chunks) <= s.max_num_batched_tokens
    assert len({c.request.id for c in chunks}) == len(chunks) <= s.max_num_seqs
    assert len(s.running) <= s.max_num_seqs
    order = [int(r.id) for r in [*s.running, *s.waiting]]
    assert order == sorted(order), "served in order of arrival"
    if oldest is not None:
        assert s.running[0] is oldest, "the oldest running request is never preempted"
    for c in chunks:
        assert c.request in s.running
        assert c.length > 0
        assert c.start == c.request.num_computed
        assert c.end <= c.request.num_tokens
        assert len(c.request.block_table) * s.pool.block_size >= c.end
    scheduled = {c.request.id for c in chunks}
    assert all(r.id in scheduled for r in s.running if r.num_pending == 1), "every decode runs"


def check_blocks(s: Scheduler) -> None:
    held = [block for r in s.running for block in r.block_table]
    assert len(held) == len(set(held)), "no block is in two places"
    assert s.pool.num_free + len(held) == s.pool.num_blocks, "no block is lost"
    counts = [s.pool.ref_count(block) for block in range(s.pool.num_blocks)]
    assert counts == [int(block in held) for block in range(s.pool.num_blocks)]
    for r in s.waiting:
        assert r.block_table == []
        assert r.num_computed == 0
