"""Which tokens run in the next step: one token budget, decodes first, then prefill chunks, first
come first served.

Rules, each with a property test:
- A step computes at most `max_num_batched_tokens` tokens of at most `max_num_seqs` requests.
- Requests are admitted in order of arrival, and only with blocks for everything they hold so far.
- When blocks run out the newest running request is preempted: its blocks are freed and it starts
  over later (recompute). The oldest running request is never preempted, so one request always makes
  progress.
- A request that could never fit is refused when it arrives, so nothing waits for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from pagoda_runtime.engine.block_pool import BlockPool
from pagoda_runtime.engine.request import FinishReason, Request
from pagoda_runtime.engine.step import Chunk


class Scheduler:
    """Owns the waiting and running requests and their blocks."""

    def __init__(
        self, pool: BlockPool, *, max_num_seqs: int, max_num_batched_tokens: int, max_model_len: int
    ) -> None:
        if max_num_seqs > max_num_batched_tokens:
            raise ValueError("every running request needs one token of the budget")
        if pool.blocks_for(max_model_len) > pool.num_blocks:
            raise ValueError("the block pool cannot hold one request of max_model_len")
        self.pool = pool
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.max_model_len = max_model_len
        # Both in order of arrival, and everything running arrived before everything waiting.
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.num_preemptions = 0
        # Blocks kept free when admitting next to running requests, so that an admission is not
        # undone at once.
        self._watermark = max(1, pool.num_blocks // 100)

    @property
    def has_work(self) -> bool:
        """True while any request is waiting or running."""
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> None:
        """Queue a request; ValueError if it could never finish within max_model_len."""
        if not request.prompt_ids or request.params.max_tokens < 1:
            raise ValueError("a request needs a prompt token and room for an answer token")
        prompt, answer = len(request.prompt_ids), request.params.max_tokens
        if prompt + answer > self.max_model_len:
            raise ValueError(
                f"{prompt} prompt tokens and {answer} answer tokens exceed the context length of "
                f"{self.max_model_len}"
            )
        self.waiting.append(request)

    def abort(self, ids: Iterable[str]) -> None:
        """Drop these requests wherever they are and free their blocks; unknown ids are ignored."""
        wanted = set(ids)
        for request in [*self.running, *self.waiting]:
            if request.id in wanted:
                self._finish(request, FinishReason.ABORT)
        self.waiting = deque(r for r in self.waiting if r.finish_reason is None)

    def schedule(self) -> list[Chunk]:
        """Choose the next step's chunks. Empty only if there is no work."""
        chunks: list[Chunk] = []
        budget = self.max_num_batched_tokens
        preempted = False

        # At most one request is in the middle of its prompt (the next is admitted with what this one
        # leaves of the budget), and the budget has a token for every running request.
        decoding = [r for r in self.running if r.num_pending == 1]
        prefilling = [r for r in self.running if r.num_pending > 1]
        for request in decoding + prefilling:
            if request not in self.running:
                continue  # Preempted for an older one, in this very loop.
            # Only a decoding request needs new blocks: admission gave blocks for all tokens known
            # then. So whoever is preempted is newer than everything in `chunks`.
            while request in self.running and not self._grow(request):
                self._preempt_newest()
                preempted = True
            if request in self.running:
                chunks.append(
                    Chunk(request, request.num_computed, min(request.num_pending, budget))
                )
                budget -= chunks[-1].length

        # After a preemption nothing is admitted: the first in line is the one just preempted.
        while (
            self.waiting and budget > 0 and len(self.running) < self.max_num_seqs and not preempted
        ):
            request = self.waiting[0]
            if not self._admit(request):
                break
            chunks.append(Chunk(request, 0, min(request.num_pending, budget)))
            budget -= chunks[-1].length
        return chunks

    def update(self, chunks: Iterable[Chunk], sampled: Mapping[str, int]) -> None:
        """Record a step: its chunks are computed, `sampled` has the next token of those that
        sampled.

        A request that ends gets its finish_reason and gives its blocks back.
        """
        for chunk in chunks:
            request = chunk.request
            samples = chunk.samples
            request.num_computed = chunk.end
            if not samples:
                continue
            token = sampled[request.id]
            request.token_ids.append(token)
            if token in request.params.stop_token_ids:
                self._finish(request, FinishReason.STOP)
            elif request.num_outputs >= request.params.max_tokens:
                self._finish(request, FinishReason.LENGTH)

    def _admit(self, request: Request) -> bool:
        """Move the first waiting request to running if blocks for all its known tokens are free."""
        needed = self.pool.blocks_for(request.num_tokens)
        # With nothing running there is nothing to keep a reserve for, and a full-length request
        # must fit.
        reserve = self._watermark if self.running else 0
        if needed + reserve > self.pool.num_free:
            return False
        blocks = self.pool.allocate(needed)
        assert blocks is not None
        request.block_table = blocks
        self.running.append(self.waiting.popleft())
        return True

    def _grow(self, request: Request) -> bool:
        """Give a running request blocks for all its known tokens; False if too few are free."""
        missing = self.pool.blocks_for(request.num_tokens) - len(request.block_table)
        blocks = self.pool.allocate(missing)
        if blocks is None:
            return False
        request.block_table += blocks
        return True

    def _preempt_newest(self) -> None:
        """Take the newest running request's blocks; it waits first in line and recomputes.

        With one request running this is never reached: it has the whole pool, and `add` saw that it
        fits.
        """
        assert len(self.running) > 1, "the oldest running request is never preempted"
        victim = self.running.pop()
        self._release(victim)
        victim.num_computed = 0
        self.waiting.appendleft(victim)
        self.num_preemptions += 1

    def _finish(self, request: Request, reason: FinishReason) -> None:
        request.finish_reason = reason
        if request in self.running:
            self.running.remove(request)
        self._release(request)

    def _release(self, request: Request) -> None:
        self.pool.free(request.block_table)
        request.block_table = []
