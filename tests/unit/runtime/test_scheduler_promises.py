"""What the scheduler promises, for any mix of answers, scores and embeddings, priorities, aborts,
deadlines, shared prompts, windows, pool sizes and budgets.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from pagoda_runtime.engine.block_pool import BlockPool
from pagoda_runtime.engine.request import FinishReason, PoolingParams, Request, SamplingParams
from pagoda_runtime.engine.scheduler import Scheduler
from pagoda_runtime.engine.step import Chunk
from pagoda_runtime.gpu.ahead import Ahead

EOS = 7


@dataclass(frozen=True)
class Arrival:
    """One request. Times count steps; variant and salt decide how much it shares with others. It
    wants an answer, its prompt's log-probabilities with an answer that may be empty, or an embedding.
    """

    kind: Literal["answer", "scores", "last", "mean", "cls"]
    prompt: int
    answer: int
    variant: int
    salt: str
    priority: int
    steps_before: int
    aborted_after: int | None
    expires_after: int | None
    stops_at: int | None

    def request(self, name: str, now: int) -> Request:
        common = self.prompt * 2 // 3
        prompt = [1] * common + [1 + self.variant] * (self.prompt - common)
        deadline = None if self.expires_after is None else now + self.expires_after
        if self.kind in ("answer", "scores"):
            return Request(
                name,
                prompt,
                SamplingParams(
                    max_tokens=self.max_tokens(),
                    prompt_logprobs=3 if self.kind == "scores" else None,
                    stop_token_ids=(EOS,),
                    priority=self.priority,
                    cache_salt=self.salt,
                    deadline=deadline,
                ),
            )
        params = PoolingParams(self.kind, self.priority, deadline, self.salt)
        return Request(name, prompt, params)

    def max_tokens(self) -> int:
        return {"answer": self.answer, "scores": self.answer - 1}.get(self.kind, 0)

    def length(self) -> int:
        """Answer tokens if nothing comes between."""
        return min(self.max_tokens(), self.stops_at or self.max_tokens())

    def reads(self) -> list[int]:
        """Positions of the prompt whose output it wants."""
        everything = list(range(self.prompt))
        return {
            "answer": [],
            "scores": everything[:-1],
            "last": everything[-1:],
            "mean": everything,
            "cls": everything[:1],
        }[self.kind]


arrivals = st.builds(
    Arrival,
    kind=st.sampled_from(["answer", "answer", "scores", "last", "mean", "cls"]),
    prompt=st.integers(1, 40),
    answer=st.integers(1, 24),
    variant=st.integers(0, 1),
    salt=st.sampled_from(["", "", "tenant"]),
    priority=st.sampled_from([0, 0, 0, -1, 1]),
    steps_before=st.integers(0, 6),
    aborted_after=st.none() | st.integers(0, 20),
    expires_after=st.none() | st.integers(0, 40),
    stops_at=st.none() | st.integers(1, 24),
)


class Memory:
    """The KV cache of a model whose keys are the whole prefix: reading finds every wrong block. A
    token reads what its window holds.

    With `ahead` it is a GPU's: after a step of decodes the next ones are computed at once, where the
    requests are then, and what was computed for a request that asks for it is not computed again.
    """

    def __init__(self, block_size: int, window: int | None, ahead: bool) -> None:
        self._size = block_size
        self._window = window
        self._looks_ahead = ahead
        self._slots: dict[tuple[int, int], object] = {}
        self._ahead: Ahead | None = None
        self._ahead_slots: list[tuple[int, int]] = []

    def run(self, chunks: list[Chunk]) -> None:
        ahead, self._ahead = self._ahead, None
        for chunk in chunks:
            row = ahead.row_of(chunk) if ahead else None
            if row is not None:
                # Its key was stored when its token was on the way; it may have been overwritten.
                slot = self._ahead_slots[row]
                if self._slots[slot] is ahead:
                    self._slots[slot] = self._content(chunk, chunk.start)
                continue
            for position in range(chunk.start, chunk.end):
                self._slots[self._slot(chunk, position)] = self._content(chunk, position)
        for chunk in chunks:
            first = 0 if self._window is None else max(0, chunk.start - self._window + 1)
            for position in range(first, chunk.end):
                slot = self._slot(chunk, position)
                assert self._slots[slot] == self._content(chunk, position)
        if self._looks_ahead and all(c.samples and c.length == 1 for c in chunks):
            going = [c for c in chunks if c.end < len(c.request.block_table) * self._size]
            self._ahead = Ahead([c.request for c in going], torch.empty(0), list)
            self._ahead_slots = [self._slot(c, c.end) for c in going]
            self._slots.update(dict.fromkeys(self._ahead_slots, self._ahead))

    def _slot(self, chunk: Chunk, position: int) -> tuple[int, int]:
        return chunk.request.block_table[position // self._size], position % self._size

    @staticmethod
    def _content(chunk: Chunk, position: int) -> tuple[str, tuple[int, ...]]:
        return chunk.request.params.cache_salt, tuple(chunk.request.token_ids[: position + 1])


@settings(max_examples=300, deadline=None)
@given(
    plan=st.lists(arrivals, min_size=1, max_size=10),
    block_size=st.integers(1, 8),
    spare_blocks=st.integers(0, 12),
    seqs=st.integers(1, 6),
    spare_budget=st.integers(0, 20),
    caching=st.booleans(),
    window=st.none() | st.integers(1, 30),
    ahead=st.booleans(),
)
def test_promises(
    plan: list[Arrival],
    block_size: int,
    spare_blocks: int,
    seqs: int,
    spare_budget: int,
    caching: bool,
    window: int | None,
    ahead: bool,
) -> None:
    longest = max(a.prompt + a.answer for a in plan)
    s = Scheduler(
        BlockPool(-(-longest // block_size) + spare_blocks, block_size),
        max_num_seqs=seqs,
        max_num_batched_tokens=seqs + spare_budget,
        max_model_len=longest,
        enable_prefix_caching=caching,
        window=window,
        ahead=ahead,
    )
    memory = Memory(block_size, window, ahead)
    requests: list[Request] = []
    reads: dict[str, list[int]] = {str(i): [] for i in range(len(plan))}
    read_again = False
    abort_at: dict[int, list[str]] = {}
    clock = 0

    def one_step() -> None:
        nonlocal clock, read_again
        s.abort(abort_at.pop(clock, []))
        s.expire(clock)
        check_blocks(s, window)
        before = list(s.running)
        chunks = s.schedule()
        check_step(s, chunks, before)
        memory.run(chunks)
        for c in chunks:
            reads[c.request.id] += c.wanted
            read_again |= c.start < c.request.num_read < len(c.request.prompt_ids)
        s.update(chunks, {c.request.id: next_token(plan, c.request) for c in chunks if c.samples})
        check_blocks(s, window)
        clock += 1

    for i, a in enumerate(plan):
        for _ in range(a.steps_before):
            one_step()
        requests.append(a.request(str(i), clock))
        s.add(requests[-1])
        if a.aborted_after is not None:
            abort_at.setdefault(clock + a.aborted_after, []).append(str(i))

    # Each step at least one request computes a token, and only preemption makes it compute one
    # again.
    bound = clock + sum(a.prompt + a.answer for a in plan) * (1 + len(plan)) + 41
    while s.has_work:
        one_step()
        assert clock <= bound

    event(f"preempted: {s.num_preemptions > 0}, found in the cache: {s.kv.prefix_hits > 0}")
    event(f"preempted while its prompt was read: {read_again}")
    assert s.kv.pool.num_free == s.kv.pool.num_blocks
    for r, a in zip(requests, plan, strict=True):
        length = a.length()
        if r.finish_reason in (FinishReason.ABORT, FinishReason.TIMEOUT):
            given_up = a.aborted_after if r.finish_reason is FinishReason.ABORT else a.expires_after
            assert given_up is not None
            assert r.num_outputs < max(length, 1)
            assert reads[r.id] == a.reads()[: len(reads[r.id])]
        else:
            assert r.num_outputs == length
            stopped = a.stops_at == length or a.kind not in ("answer", "scores")
            assert r.finish_reason is (FinishReason.STOP if stopped else FinishReason.LENGTH)
            assert reads[r.id] == a.reads(), "each wanted position is read once, in order"


def next_token(plan: list[Arrival], r: Request) -> int:
    return EOS if r.num_outputs + 1 == plan[int(r.id)].stops_at else 1


def check_step(s: Scheduler, chunks: list[Chunk], before: list[Request]) -> None:
    assert bool(chunks) == s.has_work
    assert sum(c.length for c in chunks) <= s.max_num_batched_tokens
    assert len({c.request.id for c in chunks}) == len(chunks) <= s.max_num_seqs
    assert len(s.running) <= s.max_num_seqs
    for queue in (s.running, s.waiting):
        assert queue == sorted(queue, key=lambda r: (r.params.priority, r.rank[1]))
    if before:
        assert before[0] in s.running, "the best-ranked running request is never preempted"
    for r in set(s.running) - set(before):
        assert all(r.rank < other.rank for other in s.waiting), "nobody is overtaken"
    for c in chunks:
        assert c.request in s.running
        assert c.length > 0
        assert c.start == c.request.num_computed
        assert c.end <= c.request.num_tokens
        assert len(c.request.block_table) * s.kv.pool.block_size >= c.end
    scheduled = {c.request.id for c in chunks}
    assert all(r.id in scheduled for r in s.running if r.num_pending == 1), "every decode runs"


def check_blocks(s: Scheduler, window: int | None) -> None:
    pool = s.kv.pool
    tables = [r.block_table[r.num_passed :] for r in s.running]
    for table in tables:
        assert len(table) == len(set(table))
    counts = [sum(block in table for table in tables) for block in range(pool.num_blocks)]
    assert [pool.ref_count(block) for block in range(pool.num_blocks)] == counts
    assert pool.num_free == counts.count(0), "no block is lost"
    for r in s.running:
        # Whatever a request has not shared is its own.
        own = r.block_table[max(r.num_shared, r.num_passed) :]
        assert all(pool.ref_count(block) == 1 for block in own)
        seen_from = 0 if window is None else max(0, r.num_computed - window + 1)
        assert r.num_passed == seen_from // pool.block_size, "what has left the window is free"
    for r in s.waiting:
        assert r.block_table == []
        assert r.num_computed == 0
