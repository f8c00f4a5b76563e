"""The KV cache as a pool of equal blocks: who holds them, and what the free ones still know.

Pure bookkeeping, no tensors. A block is in one of three states:

    held      by one request or, with the same prefix, by several (the reference count)
    cached    free, but its content is known by a hash: it can be revived or overwritten
    blank     free, with nothing worth keeping

Blank blocks are handed out first, then cached ones, those that were freed longest ago first (LRU).
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence


def chain_hash(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """What a full block holds: its tokens and, through the parent's hash, all tokens before it.

    Keys and values depend on the whole prefix, so tokens alone would not identify a block. SHA-256
    is collision resistant: nobody can craft a prompt that is served another prompt's blocks, and no
    tokens need to be compared.
    """
    return hashlib.sha256(parent + array("Q", token_ids).tobytes()).digest()


def root_hash(salt: str) -> bytes:
    """The parent of a first block; requests of different salts share nothing."""
    return hashlib.sha256(salt.encode()).digest()


class BlockPool:
    """Hands out block numbers 0 … num_blocks-1. Everything is O(1) per block."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError("a block pool needs at least one block of at least one token")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._ref_counts = [0] * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        self._by_hash: dict[bytes, int] = {}
        # Next to be handed out first. A dictionary, so that a block in the middle can be revived.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))

    @property
    def num_free(self) -> int:
        """Blocks nobody holds, cached ones included."""
        return len(self._free)

    def ref_count(self, block: int) -> int:
        """Number of holders of a block."""
        return self._ref_counts[block]

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold this many tokens."""
        return -(-num_tokens // self.block_size)

    def allocate(self, count: int) -> list[int] | None:
        """Take `count` blocks, or None (and nothing taken) if that many are not free.

        What they had cached is forgotten.
        """
        if count > len(self._free):
            return None
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self._ref_counts[block] = 1
            self.forget(block)
        return blocks

    def find(self, hashes: Iterable[bytes]) -> list[int]:
        """The blocks that hold the longest known prefix of a chain of hashes; takes nothing."""
        blocks = []
        for block_hash in hashes:
            block = self._by_hash.get(block_hash)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """Add one holder to each of these blocks, which must be held or cached."""
        for block in blocks:
            if self._ref_counts[block] == 0:
                if self._hashes[block] is None:
                    raise ValueError(f"block {block} is blank and cannot be shared")
                del self._free[block]
            self._ref_counts[block] += 1

    def remember(self, block: int, block_hash: bytes) -> None:
        """Say what a held, full block contains. The first block of a hash is the one to be found."""
        if self._ref_counts[block] == 0:
            raise ValueError(f"block {block} is free and has no content to remember")
        if block_hash not in self._by_hash:
            self.forget(block)
            self._by_hash[block_hash] = block
            self._hashes[block] = block_hash

    def free(self, blocks: Sequence[int]) -> None:
        """Drop one holder of each block of a sequence; blocks without holders are free.

        The tail goes first, so that it is also overwritten first: a beginning is of use without its
        continuation, but not the other way round.
        """
        for block in reversed(blocks):
            if self._ref_counts[block] == 0:
                raise ValueError(f"block {block} is freed twice")
            self._ref_counts[block] -= 1
            if self._ref_counts[block] == 0:
                self._free[block] = None
                if self._hashes[block] is None:
                    self._free.move_to_end(block, last=False)

    def forget(self, block: int) -> None:
        """Let a block be found no more: what it holds is gone, or never came to be."""
        block_hash = self._hashes[block]
        if block_hash is not None:
            del self._by_hash[block_hash]
            self._hashes[block] = None
