"""The KV cache as a pool of equal blocks with reference counts. Pure bookkeeping: no tensors
here.
"""

from __future__ import annotations

from collections import deque


class BlockPool:
    """Hands out block numbers 0 … num_blocks-1.

    A block is free at reference count 0. `share` lets several requests hold one block (prefix
    sharing); it returns to the pool when the last holder frees it.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError("a block pool needs at least one block of at least one token")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._ref_counts = [0] * num_blocks
        # First in, first out: a block is reused as late as possible, which a prefix cache will
        # want.
        self._free = deque(range(num_blocks))

    @property
    def num_free(self) -> int:
        """Blocks nobody holds."""
        return len(self._free)

    def ref_count(self, block: int) -> int:
        """Number of holders of a block."""
        return self._ref_counts[block]

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold this many tokens."""
        return -(-num_tokens // self.block_size)

    def allocate(self, count: int) -> list[int] | None:
        """Take `count` blocks, or None (and nothing taken) if that many are not free."""
        if count > len(self._free):
            return None
        blocks = [self._free.popleft() for _ in range(count)]
        for block in blocks:
            self._ref_counts[block] = 1
        return blocks

    def share(self, blocks: list[int]) -> None:
        """Add one holder to each of these blocks, which must be held already."""
        for block in blocks:
            if self._ref_counts[block] == 0:
                raise ValueError(f"block {block} is free and cannot be shared")
            self._ref_counts[block] += 1

    def free(self, blocks: list[int]) -> None:
        """Drop one holder of each block; blocks without holders are free again.

        The tail of a sequence is freed first, so that a shared beginning survives longest.
        """
        for block in reversed(blocks):
            if self._ref_counts[block] == 0:
                raise ValueError(f"block {block} is freed twice")
            self._ref_counts[block] -= 1
            if self._ref_counts[block] == 0:
                self._free.append(block)
