"""The block pool hands out every block once and takes every block back."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pagoda_runtime.engine.block_pool import BlockPool


class PoolMachine(RuleBasedStateMachine):
    """Random allocations, shares and frees beside a model that is a list of holdings."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(num_blocks=12, block_size=4)
        self.holdings: list[list[int]] = []

    @rule(count=st.integers(0, 14))
    def allocate(self, count: int) -> None:
        free = self.pool.num_free
        blocks = self.pool.allocate(count)
        if count > free:
            assert blocks is None
            assert self.pool.num_free == free
        else:
            assert blocks is not None
            assert len(set(blocks)) == count
            held = {block for holding in self.holdings for block in holding}
            assert not held & set(blocks)
            self.holdings.append(blocks)

    @precondition(lambda self: self.holdings)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        holding = data.draw(st.sampled_from(self.holdings))
        self.pool.share(holding)
        self.holdings.append(list(holding))

    @precondition(lambda self: self.holdings)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.pool.free(self.holdings.pop(data.draw(st.integers(0, len(self.holdings) - 1))))

    @invariant()
    def counts_are_holders(self) -> None:
        counts = [sum(block in holding for holding in self.holdings) for block in range(12)]
        assert [self.pool.ref_count(block) for block in range(12)] == counts
        assert self.pool.num_free == counts.count(0)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_block_cannot_be_freed_twice_nor_shared_when_free() -> None:
    pool = BlockPool(2, 4)
    blocks = pool.allocate(1)
    assert blocks is not None
    pool.free(blocks)
    with pytest.raises(ValueError, match="freed twice"):
        pool.free(blocks)
    with pytest.raises(ValueError, match="cannot be shared"):
        pool.share(blocks)


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (4, 1), (5, 2)])
def test_blocks_for(tokens: int, blocks: int) -> None:
    assert BlockPool(8, 4).blocks_for(tokens) == blocks
