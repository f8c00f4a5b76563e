"""The work queue, against a model of what client-go's promises."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pagoda.controller.queue import Key, WorkQueue

A, B = Key("ns", "a"), Key("ns", "b")


async def test_key_is_queued_once():
    queue = WorkQueue()
    queue.add(A)
    queue.add(A)
    assert await queue.get() == A
    queue.done(A)
    assert queue.idle


async def test_key_added_during_work_runs_again_and_never_twice_at_a_time():
    queue = WorkQueue()
    queue.add(A)
    await queue.get()
    queue.add(A)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 0.01)
    queue.done(A)
    assert await queue.get() == A


async def test_back_off_doubles_up_to_its_cap_and_forgets():
    queue = WorkQueue()
    delays = [queue.retry(A, cap=5) for _ in range(8)]
    assert 0.4 <= delays[0] <= 0.5
    assert delays[0] < delays[1] < delays[2]
    assert all(4 <= delay <= 5 for delay in delays[4:])
    queue.forget(A)
    assert queue.retry(A, cap=5) <= 0.5
    assert queue.retry(B, cap=5, at_least=3) == 3
    queue.close()


async def test_of_two_timers_the_earlier_counts():
    queue = WorkQueue()
    queue.add_after(A, 60)
    queue.add_after(A, 0.01)
    queue.add_after(A, 60)
    assert await asyncio.wait_for(queue.get(), 5) == A
    queue.close()


STEPS = st.lists(st.tuples(st.sampled_from(["add", "get", "done"]), st.integers(0, 3)), max_size=60)


@given(STEPS)
@settings(max_examples=200)
def test_like_the_model(steps):
    """Nothing added is lost, nothing is worked on twice at a time."""

    async def scenario():
        queue, dirty, active = WorkQueue(), set(), set()
        for action, number in steps:
            key = Key("ns", str(number))
            if action == "add":
                queue.add(key)
                dirty.add(key)
            elif action == "done" and key in active:
                queue.done(key)
                active.discard(key)
            elif action == "get" and dirty - active:
                got = await asyncio.wait_for(queue.get(), 1)
                assert got in dirty - active
                dirty.discard(got)
                active.add(got)
            assert queue.idle == (not dirty and not active)

    asyncio.run(scenario())
