"""Which tokens run in the next step: one token budget, decodes first, then prefill chunks.

A request's rank is its priority (lower is better), then its order of arrival. Rules, each with a
property test:

- A step computes at most `max_num_batched_tokens` tokens of at most `max_num_seqs` requests; fewer for
  a while after one that did not fit in memory.
- Every decoding request gets its token. What is left of the budget goes to prompts, best rank first,
  whether they are running or waiting; so a long prompt holds up only those behind it.
- Requests are admitted by rank, and only with blocks for everything they hold so far. If the first
  in line does not fit, nobody overtakes it.
- When blocks run out the worst-ranked running request is preempted: its blocks are freed and it
  starts over later from what the prefix cache still has (recompute). So the best-ranked running
  request is never preempted: it keeps its blocks until it ends, and then the next one is the best.
  A better one can take that place only by arriving, so of any finite number of requests each one
  ends.
- Waiting never preempts running, whatever the priorities.
- A request that could never fit is refused when it arrives, so nothing waits for ever; and one that
  would make the queue longer than its bounds is refused then too, not after waiting in vain.
"""

from __future__ import annotations

import itertools
from bisect import insort
from collections import deque
from collections.abc import Iterable, Mapping

from pagoda_runtime.engine.block_pool import BlockPool
from pagoda_runtime.engine.kv_manager import KVManager
from pagoda_runtime.engine.request import FinishReason, PoolingParams, Request
from pagoda_runtime.engine.step import Chunk

# After a step that did not fit in memory, steps are smaller; what took the memory may have gone since,
# so after so many larger ones are tried again.
SMALLER_STEPS = 1000


class QueueFullError(Exception):
    """The request would fit, but too much waits before it: later, or another replica, may do.

    bound: the flag that says how much is too much, as vLLM names it in its metrics.
    """

    def __init__(self, message: str, bound: str) -> None:
        super().__init__(message)
        self.bound = bound


class Scheduler:
    """Owns the waiting and running requests and their blocks."""

    def __init__(
        self,
        pool: BlockPool,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        max_num_queued_reqs: int | None = None,
        max_num_queued_tokens: int | None = None,
        enable_prefix_caching: bool = True,
        window: int | None = None,
        ahead: bool = False,
    ) -> None:
        """window and ahead: see `KVManager`."""
        if max_num_seqs > max_num_batched_tokens:
            raise ValueError("every running request needs one token of the budget")
        if pool.blocks_for(max_model_len) > pool.num_blocks:
            raise ValueError("the block pool cannot hold one request of max_model_len")
        self.kv = KVManager(
            pool, enable_prefix_caching=enable_prefix_caching, window=window, ahead=ahead
        )
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self._budget = max_num_batched_tokens
        self._smaller_steps = 0
        self.max_model_len = max_model_len
        self.max_num_queued_reqs = max_num_queued_reqs
        self.max_num_queued_tokens = max_num_queued_tokens
        # Both in order of rank.
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.num_preemptions = 0
        self._arrivals = itertools.count()
        # Blocks kept free when admitting next to running requests, so that an admission is not
        # undone at once.
        self._watermark = max(1, pool.num_blocks // 100)

    @property
    def has_work(self) -> bool:
        """True while any request is waiting or running."""
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> None:
        """Queue a request; ValueError if it could never finish within max_model_len, QueueFullError
        if too much waits already.
        """
        prompt, answer = len(request.prompt_ids), request.max_tokens
        if prompt == 0 or (answer < 1 and not request.reads_prompt):
            raise ValueError("a request needs a prompt token and room for an answer token")
        if prompt + answer > self.max_model_len:
            raise ValueError(
                f"{prompt} prompt tokens and {answer} answer tokens exceed the context length of "
                f"{self.max_model_len}"
            )
        request.num_uncached = self.kv.num_uncached(request)
        self._check_queue(request)
        request.rank = (request.params.priority, next(self._arrivals))
        insort(self.waiting, request, key=_rank)

    def abort(self, ids: Iterable[str]) -> None:
        """Drop these requests wherever they are and free their blocks; unknown ids are ignored."""
        wanted = set(ids)
        self._end([r for r in self._all() if r.id in wanted], FinishReason.ABORT)

    def expire(self, now: float) -> list[Request]:
        """End the requests whose deadline is not after `now`, and return them."""
        late = [
            r for r in self._all() if r.params.deadline is not None and r.params.deadline <= now
        ]
        self._end(late, FinishReason.TIMEOUT)
        return late

    def schedule(self) -> list[Chunk]:
        """Choose the next step's chunks. Empty only if there is no work."""
        chunks: list[Chunk] = []
        budget = self._next_budget()
        preempted = False

        # Only these need new blocks: admission gave blocks for all tokens known then.
        for request in [r for r in self.running if r.num_pending == 1]:
            # The worst-ranked is preempted, so it is this one or not reached yet, and never one
            # that is in `chunks`.
            while request.block_table and not self.kv.grow(request):
                self._preempt()
                preempted = True
            if request.block_table:
                chunks.append(self._chunk(request, budget))
                budget -= 1

        prefilling = deque(r for r in self.running if r.num_pending > 1)
        while budget > 0:
            # After a preemption nothing is admitted: it would take the blocks just freed.
            chosen = None if preempted else self._admit(prefilling[0] if prefilling else None)
            if chosen is None and prefilling:
                chosen = prefilling.popleft()
            if chosen is None:
                break
            chunks.append(self._chunk(chosen, budget))
            budget -= chunks[-1].length
        return chunks

    def shrink_budget(self) -> None:
        """A step did not fit in memory: have the next ones half as large, down to a token a request."""
        self._budget = max(self.max_num_seqs, self._budget // 2)
        self._smaller_steps = SMALLER_STEPS

    def _next_budget(self) -> int:
        budget = self._budget
        if budget < self.max_num_batched_tokens:
            self._smaller_steps -= 1
            if self._smaller_steps == 0:
                self._budget = min(2 * budget, self.max_num_batched_tokens)
                self._smaller_steps = SMALLER_STEPS
        return budget

    def update(self, chunks: Iterable[Chunk], sampled: Mapping[str, int]) -> None:
        """Record a step: its chunks are computed, `sampled` has the next token of those that
        sampled.

        A request that ends gets its finish_reason and gives its blocks back.
        """
        for chunk in chunks:
            request = chunk.request
            samples = chunk.samples
            request.num_computed = chunk.end
            self.kv.release_passed(request)
            request.num_read = max(request.num_read, chunk.end)
            if samples:
                token = sampled[request.id]
                request.token_ids.append(token)
                if token in request.sampling.stop_token_ids:
                    self._end([request], FinishReason.STOP)
                elif request.num_outputs >= request.max_tokens:
                    self._end([request], FinishReason.LENGTH)
            elif request.num_pending == 0:
                pooled = isinstance(request.params, PoolingParams)
                self._end([request], FinishReason.STOP if pooled else FinishReason.LENGTH)

    def fail(self, chunks: Iterable[Chunk], failed: Iterable[Chunk]) -> list[Request]:
        """End the requests of the chunks that could not be computed, and return them.

        Their blocks of this step hold nothing, so nobody may find them any more, and requests of
        the same step that have found one already end too. `chunks` is the step, as scheduled.
        """
        lost, wanted, hollow = [], set(failed), set[int]()
        for chunk in chunks:
            request = chunk.request
            if chunk in wanted or not hollow.isdisjoint(request.block_table[request.num_passed :]):
                lost.append(request)
                hollow.update(self.kv.forget_from(request, chunk.start))
        self._end(lost, FinishReason.ERROR)
        return lost

    def _check_queue(self, request: Request) -> None:
        # A free seat takes a request in the next step: until then it is on its way, not queued.
        seats = self.max_num_seqs - len(self.running)
        bound = self.max_num_queued_reqs
        if bound is not None and len(self.waiting) >= bound + seats:
            raise QueueFullError(f"{len(self.waiting)} requests are waiting", "max_num_queued_reqs")
        tokens = sum(r.num_uncached for r in self.waiting)
        bound = self.max_num_queued_tokens
        # The first in line may be as long as it likes: there is no better time to send it.
        if bound is not None and self.waiting and tokens + request.num_uncached > bound:
            raise QueueFullError(
                f"{tokens} prompt tokens are waiting to be computed", "max_num_queued_tokens"
            )

    def _admit(self, ahead_of: Request | None) -> Request | None:
        """Move the first waiting request to running, if there is a seat and blocks for it, and only
        if it ranks before the running one that could have the budget instead.
        """
        if not self.waiting or len(self.running) >= self.max_num_seqs:
            return None
        request = self.waiting[0]
        if ahead_of is not None and ahead_of.rank < request.rank:
            return None
        # With nothing running there is nothing to keep a reserve for, and a full-length request
        # must fit.
        if not self.kv.admit(request, self._watermark if self.running else 0):
            return None
        insort(self.running, self.waiting.pop(0), key=_rank)
        return request

    def _chunk(self, request: Request, budget: int) -> Chunk:
        chunk = Chunk(request, request.num_computed, min(request.num_pending, budget))
        self.kv.share_up_to(request, chunk.end)
        return chunk

    def _preempt(self) -> None:
        """Take the worst-ranked running request's blocks; it waits again and recomputes.

        With one request running this is never reached: it can have the whole pool, and `add` saw
        that it fits.
        """
        assert len(self.running) > 1, "the best-ranked running request is never preempted"
        victim = self.running.pop()
        self.kv.release(victim)
        victim.num_preemptions += 1
        self.num_preemptions += 1
        insort(self.waiting, victim, key=_rank)

    def _end(self, requests: Iterable[Request], reason: FinishReason) -> None:
        for request in requests:
            request.finish_reason = reason
            self.kv.release(request)
        self.running = [r for r in self.running if r.finish_reason is None]
        self.waiting = [r for r in self.waiting if r.finish_reason is None]

    def _all(self) -> list[Request]:
        return [*self.running, *self.waiting]


def _rank(request: Request) -> tuple[int, int]:
    return request.rank
