"""Learning what a replica can do."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pagoda.api.autoscaling import Capacity
from pagoda.autoscaling.capacity import (
    CHANGE_SECONDS,
    WINDOW_SECONDS,
    LearnedCapacity,
    saturated_rate,
)
from pagoda.autoscaling.samples import PodHistory, PodSample, PodState


def pod(*waiting: float | None, rate: float = 100.0, prompts: float = 0.0) -> PodHistory:
    it = PodHistory(state=PodState.SERVING)
    for i, queue in enumerate(waiting):
        t = 5.0 * i
        it.add(PodSample(t, rate * t, prompts * t, requests_waiting=queue))
    return it


def test_a_replica_whose_queue_is_never_empty_shows_its_capacity():
    assert saturated_rate(pod(*[3.0] * 7, prompts=40), 30, 0.25) == pytest.approx(110)


@pytest.mark.parametrize("gap", [0.0, None])
def test_an_empty_queue_or_an_unknown_one_within_the_window_shows_nothing(gap):
    assert saturated_rate(pod(3, 3, 3, gap, 3, 3, 3), 30, 0.25) is None


def test_too_short_a_watch_or_silence_shows_nothing():
    assert saturated_rate(pod(3, 3, 3), 10, 0.25) is None
    assert saturated_rate(pod(*[3.0] * 7), 60, 0.25) is None


def feed(it: LearnedCapacity, rates, start: float, revision="a", pod="p") -> list[float]:
    """Give one window after the other; list the times at which the capacity changed."""
    times = [start + i * WINDOW_SECONDS for i in range(len(rates))]
    return [t for t, rate in zip(times, rates, strict=True) if it.observe(revision, {pod: rate}, t)]


def test_one_window_is_not_enough_and_two_are():
    it = LearnedCapacity()
    assert feed(it, [100, 90], 0) == [WINDOW_SECONDS]
    assert it.tokens_per_second == 100
    assert it.revision == "a"


def test_windows_that_overlap_count_once():
    it = LearnedCapacity()
    assert not any(it.observe("a", {"p": 100.0}, t) for t in range(0, int(WINDOW_SECONDS), 5))
    assert it.known() is None


def test_the_90th_percentile_and_not_the_highest():
    it = LearnedCapacity()
    it.observe("a", {f"p{i}": 10.0 * i for i in range(1, 11)}, 0)
    assert it.tokens_per_second == 90


def test_a_change_of_15_percent_is_none():
    it = LearnedCapacity()
    feed(it, [100, 100], 0)
    assert feed(it, [115] * 20, 1000) == []
    assert feed(it, [116] * 20, 3000) != []


@given(st.lists(st.floats(1, 1000), min_size=1, max_size=200))
def test_changes_are_ten_minutes_apart_and_larger_than_15_percent(rates):
    it = LearnedCapacity()
    seen = []
    for i, rate in enumerate(rates):
        t = i * WINDOW_SECONDS
        if it.observe("a", {"p": rate}, t):
            seen.append((t, it.tokens_per_second))
    for (t, old), (later, new) in itertools.pairwise(seen):
        assert later - t >= CHANGE_SECONDS
        assert abs(new / old - 1) > 0.15


def test_a_new_revision_starts_with_the_old_ones_capacity_and_learns_its_own():
    it = LearnedCapacity()
    feed(it, [100, 100], 0)
    assert it.revision == "a"
    assert feed(it, [50], 1000, "b") == []
    assert it.tokens_per_second == 100
    assert feed(it, [50], 1100, "b") == [1100]
    assert (it.tokens_per_second, it.revision) == (50, "b")


def test_a_new_revision_that_does_as_much_makes_the_capacity_its_own():
    it = LearnedCapacity()
    feed(it, [100, 100], 0)
    assert feed(it, [101, 101], 30, "b") == [60]
    assert (it.tokens_per_second, it.revision) == (100, "b")


def test_status_brings_it_back():
    it = LearnedCapacity()
    assert it.known() is None
    feed(it, [100, 100], 5000)
    back = LearnedCapacity.of(it.known())
    assert (back.tokens_per_second, back.revision) == (100, "a")
    assert feed(back, [300, 300], 5100) == []  # the ten minutes go on
    assert feed(back, [300], 5030 + CHANGE_SECONDS) != []


@pytest.mark.parametrize("known", [None, Capacity(tokens_per_second=0, revision="a", changed_at=1)])
def test_a_status_without_it_is_nothing_learned(known):
    assert LearnedCapacity.of(known).known() is None
