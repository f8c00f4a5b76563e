"""Scrapes of one pod: restarts, gaps, silence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pagoda.autoscaling.samples import KEEP_SECONDS, STALE_SECONDS, PodHistory, PodSample, PodState

counts = st.integers(0, 10**9)


def history(*values: float | None, every: float = 5.0) -> PodHistory:
    it = PodHistory()
    for i, value in enumerate(values):
        it.add(PodSample(i * every, generation_tokens=value))
    return it


times = st.lists(st.floats(-10, 60), min_size=3, max_size=3).map(sorted)


@given(st.lists(st.one_of(st.none(), counts), min_size=2, max_size=10), times)
def test_no_increase_is_negative_whatever_a_counter_does(values, times):
    it = history(*values)
    start, middle, end = times
    parts = (
        it.increase("generation_tokens", start, middle),
        it.increase("generation_tokens", middle, end),
    )
    assert all(part is None or part >= 0 for part in parts)
    if None not in values:
        whole = it.increase("generation_tokens", start, end)
        assert sum(parts) == pytest.approx(whole, abs=1e-3)


def test_a_restart_counts_from_zero():
    assert history(100, 200, 30, 50).increase("generation_tokens", 0, 15) == 150


def test_a_restart_stays_known_over_a_page_that_lacks_the_counter():
    assert history(1000, 10, None, 20).increase("generation_tokens", 0, 15) == 20


def test_between_two_scrapes_a_counter_is_on_the_line():
    assert history(0, 100).increase("generation_tokens", 2, 4) == pytest.approx(40)


def test_what_is_never_told_is_unknown():
    it = history(1, 2)
    assert it.increase("prompt_tokens", 0, 5) is None
    assert it.latest("kv_cache_usage") is None
    assert it.mean("requests_running", 0, 5) is None
    assert PodHistory().increase("generation_tokens", 0, 5) is None


def test_an_older_scrape_changes_nothing():
    it = history(0, 100)
    it.add(PodSample(3.0, generation_tokens=50))
    assert it.increase("generation_tokens", 0, 5) == 100


def test_old_samples_are_dropped_and_the_window_stays_whole():
    it = history(*range(0, 100_000, 100))
    end = it.samples[-1].time
    assert len(it.samples) <= KEEP_SECONDS / 5 + 2
    assert it.increase("generation_tokens", end - KEEP_SECONDS, end) == pytest.approx(
        100 * KEEP_SECONDS / 5
    )


def test_only_a_pod_that_serves_can_be_blind():
    it = PodHistory(created=0.0)
    assert not it.is_blind(1000)  # it loads
    it.become(PodState.SERVING, 1000)
    assert not it.is_blind(1000 + STALE_SECONDS)  # the first scrape is still to come
    assert it.is_blind(1001 + STALE_SECONDS)
    it.add(PodSample(1020, generation_tokens=1))
    assert not it.is_blind(1020 + STALE_SECONDS)
    it.become(PodState.LEAVING, 1030)
    assert not it.is_blind(2000)


def test_life_goes_one_way_and_a_start_is_timed():
    it = PodHistory(created=10.0)
    it.become(PodState.SERVING, 70.0)
    it.become(PodState.STARTING, 80.0)  # readiness lost
    assert it.state is PodState.SERVING
    assert it.start_seconds == 60.0
