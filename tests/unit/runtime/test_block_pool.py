"""The block pool hands out every block once, takes every block back, and finds what it knows."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pagoda_runtime.engine.block_pool import BlockPool, chain_hash, root_hash

BLOCKS = 12


class PoolMachine(RuleBasedStateMachine):
    """Random calls beside a model: the holdings as lists, and what every block was written with."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(BLOCKS, block_size=4)
        self.holdings: list[list[int]] = []
        self.content: dict[int, bytes] = {}
        # Free blocks, those to be handed out last at the end.
        self.lru = list(range(BLOCKS))

    def held(self) -> set[int]:
        return {block for holding in self.holdings for block in holding}

    @rule(count=st.integers(0, 14))
    def allocate(self, count: int) -> None:
        expected = self.lru[:count]
        blocks = self.pool.allocate(count)
        if count > len(self.lru):
            assert blocks is None
        else:
            assert blocks == expected
            self.lru = self.lru[count:]
            self.holdings.append(blocks)
            for block in blocks:
                self.content.pop(block, None)

    @precondition(lambda self: self.held())
    @rule(data=st.data(), word=st.binary(min_size=1, max_size=1))
    def remember(self, data: st.DataObject, word: bytes) -> None:
        block = data.draw(st.sampled_from(sorted(self.held())))
        self.pool.remember(block, word)
        if word not in self.content.values():
            self.content[block] = word

    @precondition(lambda self: self.content)
    @rule(data=st.data())
    def find_and_share(self, data: st.DataObject) -> None:
        words = data.draw(st.lists(st.sampled_from(sorted(self.content.values())), unique=True))
        blocks = self.pool.find(words)
        assert [self.content[block] for block in blocks] == words
        self.pool.share(blocks)
        self.lru = [block for block in self.lru if block not in blocks]
        self.holdings.append(blocks)

    @precondition(lambda self: self.holdings)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        blocks = self.holdings.pop(data.draw(st.integers(0, len(self.holdings) - 1)))
        self.pool.free(blocks)
        for block in reversed(blocks):
            if block not in self.held():
                self.lru.insert(len(self.lru) if block in self.content else 0, block)

    @invariant()
    def counts_are_holders(self) -> None:
        counts = [sum(block in holding for holding in self.holdings) for block in range(BLOCKS)]
        assert [self.pool.ref_count(block) for block in range(BLOCKS)] == counts
        assert self.pool.num_free == counts.count(0) == len(self.lru)

    @invariant()
    def exactly_what_was_remembered_is_found(self) -> None:
        for word in (bytes([n]) for n in range(256)):
            found = self.pool.find([word])
            assert [self.content[block] for block in found] == [word][: len(found)]
            assert bool(found) == (word in self.content.values())


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_block_cannot_be_freed_twice_nor_shared_or_remembered_when_blank() -> None:
    pool = BlockPool(2, 4)
    blocks = pool.allocate(1)
    assert blocks is not None
    pool.free(blocks)
    with pytest.raises(ValueError, match="freed twice"):
        pool.free(blocks)
    with pytest.raises(ValueError, match="cannot be shared"):
        pool.share(blocks)
    with pytest.raises(ValueError, match="no content"):
        pool.remember(blocks[0], b"x")


def test_a_prefix_is_found_up_to_its_first_gap() -> None:
    pool = BlockPool(3, 4)
    blocks = pool.allocate(3)
    assert blocks is not None
    for block, word in zip(blocks, (b"a", b"b", b"c"), strict=True):
        pool.remember(block, word)
    pool.free(blocks)
    assert pool.find([b"a", b"b", b"c"]) == blocks
    assert pool.allocate(1) == [blocks[2]], "the tail is overwritten first"
    assert pool.find([b"a", b"b", b"c"]) == blocks[:2]
    assert pool.allocate(1) == [blocks[1]]
    assert pool.find([b"b"]) == []


prompts = st.tuples(st.sampled_from(["", "tenant"]), st.lists(st.integers(0, 1), max_size=6))


@given(prompts, prompts)
def test_hashes_are_equal_only_for_the_same_salt_and_all_the_same_tokens(
    first: tuple[str, list[int]], second: tuple[str, list[int]]
) -> None:
    def last_hash(salt: str, tokens: list[int]) -> bytes:
        block_hash = root_hash(salt)
        for token in tokens:
            block_hash = chain_hash(block_hash, [token])
        return block_hash

    assert (last_hash(*first) == last_hash(*second)) == (first == second)


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (4, 1), (5, 2)])
def test_blocks_for(tokens: int, blocks: int) -> None:
    assert BlockPool(8, 4).blocks_for(tokens) == blocks
