"""The scheduler's rules, one at a time."""

from dataclasses import replace
from typing import Any

import pytest
from pagoda_runtime.engine.block_pool import BlockPool
from pagoda_runtime.engine.request import FinishReason, PoolingParams, Request, SamplingParams
from pagoda_runtime.engine.scheduler import QueueFullError, Scheduler
from pagoda_runtime.engine.step import Chunk

EOS = 7


def request(name: str, prompt: int, answer: int, **params: Any) -> Request:
    """A prompt that begins like no other, so that the prefix cache has no say."""
    options = SamplingParams(max_tokens=answer, stop_token_ids=(EOS,), cache_salt=name)
    return Request(name, [1] * prompt, replace(options, **params))


def embedding(name: str, prompt: int, pooling: Any, cache_salt: str = "") -> Request:
    return Request(name, [1] * prompt, PoolingParams(pooling, cache_salt=cache_salt or name))


def scheduler(
    blocks: int = 64, *, block_size: int = 4, seqs: int = 8, budget: int = 16, **options: Any
) -> Scheduler:
    return Scheduler(
        BlockPool(blocks, block_size),
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        max_model_len=blocks * block_size,
        **options,
    )


def shape(chunks: list[Chunk]) -> list[tuple[str, int, int]]:
    return [(c.request.id, c.start, c.end) for c in chunks]


def step(s: Scheduler, token: int = 1) -> list[tuple[str, int, int]]:
    chunks = s.schedule()
    result = shape(chunks)
    s.update(chunks, {c.request.id: token for c in chunks if c.samples})
    return result


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
    s = scheduler(blocks=6, budget=32, enable_prefix_caching=False)
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
    assert s.kv.pool.num_free == 8


def test_a_prompt_that_needs_every_block_is_admitted() -> None:
    s = scheduler(blocks=8, budget=32)
    s.add(request("whole", 31, 1))
    assert step(s) == [("whole", 0, 31)]


def test_without_an_answer_only_a_prompt_that_is_read_is_taken() -> None:
    s = scheduler(blocks=8, budget=20)
    scored, pooled = request("scored", 32, 0, prompt_logprobs=0), embedding("pooled", 32, "mean")
    for r in (scored, pooled):
        s.add(r)
        assert step(s) == [(r.id, 0, 20)]
        assert step(s) == [(r.id, 20, 32)]
    assert (scored.finish_reason, pooled.finish_reason) == (FinishReason.LENGTH, FinishReason.STOP)
    assert not s.has_work
    with pytest.raises(ValueError, match="context length of 32"):
        s.add(embedding("long", 33, "mean"))


@pytest.mark.parametrize(
    ("reader", "computed"),
    [
        ("scores", ("reader", 0, 10)),
        ("mean", ("reader", 0, 10)),
        ("cls", ("reader", 0, 10)),
        ("last", ("reader", 8, 10)),
    ],
)
def test_what_is_read_is_computed_even_if_it_is_cached(
    reader: str, computed: tuple[str, int, int]
) -> None:
    s = scheduler(budget=32)
    s.add(request("writer", 10, 1, cache_salt="one"))
    step(s)
    if reader == "scores":
        s.add(request("reader", 10, 1, cache_salt="one", prompt_logprobs=0))
    else:
        s.add(embedding("reader", 10, reader, cache_salt="one"))
    assert step(s) == [computed]
    s.add(request("later", 10, 1, cache_salt="one"))
    assert step(s) == [("later", 8, 10)]


@pytest.mark.parametrize(("caching", "resumes_at"), [(True, 8), (False, 0)])
def test_after_a_preemption_nothing_is_read_twice(caching: bool, resumes_at: int) -> None:
    s = scheduler(blocks=8, seqs=2, budget=3, enable_prefix_caching=caching)
    s.add(request("old", 3, 20))
    s.add(embedding("reader", 24, "mean"))
    starts: list[int] = []
    read: list[int] = []
    while s.has_work:
        chunks = s.schedule()
        for c in chunks:
            if c.request.id == "reader":
                starts.append(c.start)
                read += c.wanted
        s.update(chunks, {c.request.id: 1 for c in chunks if c.samples})
    assert s.num_preemptions == 1
    assert starts[:6] == [0, 2, 4, 6, 8, resumes_at]
    assert read == list(range(24))


def test_end_of_sequence_ends() -> None:
    s = scheduler()
    a = request("a", 2, 9)
    s.add(a)
    step(s)
    step(s, token=EOS)
    assert a.finish_reason is FinishReason.STOP
    assert not s.has_work


def test_the_better_priority_goes_first_then_who_came_first() -> None:
    s = scheduler(seqs=1)
    for name, priority in (("a", 0), ("late", 5), ("b", 0), ("first", -1)):
        s.add(request(name, 2, 1, priority=priority))
    assert [step(s)[0][0] for _ in range(4)] == ["first", "a", "b", "late"]


def test_a_better_priority_takes_the_budget_from_a_long_prompt_but_not_its_blocks() -> None:
    s = scheduler(budget=8)
    s.add(request("long", 30, 1, priority=1))
    assert step(s) == [("long", 0, 8)]
    s.add(request("urgent", 10, 2))
    assert step(s) == [("urgent", 0, 8)]
    assert step(s) == [("urgent", 8, 10), ("long", 8, 14)]


def test_the_worst_priority_is_preempted_even_if_it_came_first() -> None:
    s = scheduler(blocks=6, budget=32)
    s.add(request("batch", 8, 12, priority=1))
    s.add(request("chat", 8, 12))
    while s.num_preemptions == 0:
        step(s)
    assert [r.id for r in s.running] == ["chat"]
    assert [r.id for r in s.waiting] == ["batch"]


def test_a_preempted_request_goes_on_from_what_the_cache_still_has() -> None:
    s = scheduler(blocks=6, budget=32)
    s.add(request("old", 8, 8))
    s.add(request("new", 8, 8))
    while s.num_preemptions == 0:
        step(s)
    assert [r.num_computed for r in s.waiting] == [0]
    while "new" not in (chunks := {c[0]: c for c in step(s)}):
        pass
    assert chunks["new"] == ("new", 8, 13), "its third block went to the older request"


def test_requests_with_one_prompt_share_its_full_blocks_within_a_step() -> None:
    s = scheduler(budget=32)
    for name in ("a", "b", "c"):
        s.add(request(name, 10, 4, cache_salt="one"))
    assert step(s) == [("a", 0, 10), ("b", 8, 10), ("c", 8, 10)]
    tables = [r.block_table for r in s.running]
    assert len({tuple(table[:2]) for table in tables}) == 1
    assert len({table[2] for table in tables}) == 3
    assert (s.kv.prefix_queries, s.kv.prefix_hits) == (30, 16)


def test_a_prompt_that_is_cached_to_its_end_computes_its_last_block() -> None:
    s = scheduler(budget=32)
    for name in ("a", "b"):
        s.add(request(name, 8, 1, cache_salt="one"))
    assert step(s) == [("a", 0, 8), ("b", 4, 8)]


def test_another_salt_shares_nothing() -> None:
    s = scheduler(budget=32)
    s.add(request("a", 10, 4))
    s.add(request("b", 10, 4))
    assert step(s) == [("a", 0, 10), ("b", 0, 10)]


def test_without_prefix_caching_nothing_is_shared_and_nothing_counted() -> None:
    s = scheduler(budget=32, enable_prefix_caching=False)
    for name in ("a", "b"):
        s.add(request(name, 10, 4, cache_salt="one"))
    assert step(s) == [("a", 0, 10), ("b", 0, 10)]
    assert (s.kv.prefix_queries, s.kv.prefix_hits) == (0, 0)


def test_a_deadline_ends_running_and_waiting_requests() -> None:
    s = scheduler(seqs=1)
    running, waiting = request("a", 2, 9, deadline=5.0), request("b", 2, 9, deadline=4.0)
    patient = request("c", 2, 1)
    for r in (running, waiting, patient):
        s.add(r)
    step(s)
    assert s.expire(3.9) == []
    assert s.expire(4.0) == [waiting]
    assert s.expire(9.0) == [running]
    assert {waiting.finish_reason, running.finish_reason} == {FinishReason.TIMEOUT}
    assert step(s) == [("c", 0, 2)]
    assert s.kv.pool.num_free == 64


def test_the_queue_is_bounded_by_requests_beyond_the_free_seats() -> None:
    s = scheduler(seqs=2, max_num_queued_reqs=1)
    for name in "abc":
        s.add(request(name, 2, 2))
    with pytest.raises(QueueFullError, match="3 requests are waiting"):
        s.add(request("d", 2, 2))
    step(s)
    with pytest.raises(QueueFullError, match="1 requests are waiting"):
        s.add(request("d", 2, 2))
    step(s)  # a and b end, c is next.
    s.add(request("d", 2, 2))
    assert [r.id for r in s.waiting] == ["c", "d"]


def test_the_queue_is_bounded_by_tokens_that_are_not_cached() -> None:
    s = scheduler(budget=32, max_num_queued_tokens=20)
    s.add(request("first", 40, 1, cache_salt="one"))
    with pytest.raises(QueueFullError, match="40 prompt tokens"):
        s.add(request("second", 1, 1))
    step(s)
    step(s)
    for name in ("a", "b", "c"):
        s.add(request(name, 41, 1, cache_salt="one"))  # 40 tokens are cached.
    s.add(request("d", 17, 1))
    with pytest.raises(QueueFullError, match="20 prompt tokens"):
        s.add(request("e", 1, 1))
