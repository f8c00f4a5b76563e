"""Which KV blocks a request has: cached ones for the beginning it shares, new ones for the rest.

Only full blocks are shared. A request writes nothing before `num_computed`, so a shared block is
never written to, and nothing ever has to be copied.

Where every layer has a sliding window, blocks that have left the largest one are given back while the
request runs: nothing will look at them again.
"""

from __future__ import annotations

from pagoda_runtime.engine.block_pool import BlockPool, chain_hash, root_hash
from pagoda_runtime.engine.request import Request


class KVManager:
    """Fills and empties the block tables of requests."""

    def __init__(
        self,
        pool: BlockPool,
        *,
        enable_prefix_caching: bool = True,
        window: int | None = None,
        ahead: bool = False,
    ) -> None:
        """Prepare.

        Args:
            pool: the blocks.
            enable_prefix_caching: whether prompts may find blocks of others.
            window: the most positions a token sees in any layer, its own included; None for all.
            ahead: whether running requests get their next block a token early.
        """
        self.pool = pool
        self._window = window
        self._ahead = ahead
        self._reserve = max(1, pool.num_blocks // 100)
        self._caching = enable_prefix_caching
        # In tokens, once per request: what a preemption makes computed again is not a query.
        self.prefix_queries = 0
        self.prefix_hits = 0

    def num_uncached(self, request: Request) -> int:
        """Tokens a request would have to compute if it were admitted now."""
        return request.num_tokens - len(self._cached(request)) * self.pool.block_size

    def admit(self, request: Request, reserve: int) -> bool:
        """Give a request without blocks all it needs for its known tokens, if `reserve` blocks stay
        free beside them; else change nothing and return False.

        Its `num_computed` is then what the cache had.
        """
        cached = self._cached(request)
        revived = sum(self.pool.ref_count(block) == 0 for block in cached)
        missing = self.pool.blocks_for(request.num_tokens) - len(cached)
        if revived + missing + reserve > self.pool.num_free:
            return False
        self.pool.share(cached)  # Before anything is allocated, which could overwrite them.
        new = self.pool.allocate(missing)
        assert new is not None
        request.block_table = cached + new
        request.num_shared = len(cached)
        request.num_computed = len(cached) * self.pool.block_size
        self.release_passed(request)
        if request.num_cached is None:
            request.num_cached = len(cached) * self.pool.block_size
            if self._caching:
                self.prefix_queries += request.num_tokens
                self.prefix_hits += request.num_cached
        return True

    def grow(self, request: Request) -> bool:
        """Give a running request blocks for all its known tokens; False if too few are free.

        With `ahead` it gets one for the token after them too, where there is more than enough.
        """
        missing = max(0, self.pool.blocks_for(request.num_tokens) - len(request.block_table))
        blocks = self.pool.allocate(missing)
        if blocks is None:
            return False
        request.block_table += blocks
        room = len(request.block_table) * self.pool.block_size
        if self._ahead and room == request.num_tokens and self.pool.num_free > self._reserve:
            request.block_table += self.pool.allocate(1) or []
        return True

    def share_up_to(self, request: Request, end: int) -> None:
        """Let others find the full blocks of a request's first `end` tokens.

        This is done when a step is scheduled, not when it is done, so that a request of the same
        step can be one of the others; see `Runner.run`.
        """
        if not self._caching:
            return
        hashes = self._hashes(request)
        for index in range(request.num_shared, end // self.pool.block_size):
            self.pool.remember(request.block_table[index], hashes[index])
            request.num_shared = index + 1

    def release_passed(self, request: Request) -> None:
        """Take the blocks that have left the window of the next token, and so of all after it."""
        if self._window is None:
            return
        begin = max(0, request.num_computed - self._window + 1) // self.pool.block_size
        self.pool.free(request.block_table[request.num_passed : begin])
        request.num_passed = begin

    def forget_from(self, request: Request, start: int) -> list[int]:
        """Let nobody find the blocks from position `start` on any more; return them."""
        blocks = request.block_table[start // self.pool.block_size :]
        for block in blocks:
            self.pool.forget(block)
        return blocks

    def release(self, request: Request) -> None:
        """Take a request's blocks. What is in them stays to be found until they are overwritten."""
        self.pool.free(request.block_table[request.num_passed :])
        request.block_table = []
        request.num_shared = request.num_computed = request.num_passed = 0

    def _cached(self, request: Request) -> list[int]:
        """The cached blocks a request begins with, of those it may take without computing them."""
        if not self._caching:
            return []
        return self.pool.find(
            self._hashes(request)[: request.num_skippable // self.pool.block_size]
        )

    def _hashes(self, request: Request) -> list[bytes]:
        """The hashes of all full blocks of known tokens; each is computed once."""
        hashes, size = request.block_hashes, self.pool.block_size
        for start in range(len(hashes) * size, request.num_tokens - size + 1, size):
            parent = hashes[-1] if hashes else root_hash(request.params.cache_salt)
            hashes.append(chain_hash(parent, request.token_ids[start : start + size]))
        return hashes
