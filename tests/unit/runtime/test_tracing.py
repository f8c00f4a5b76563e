"""Spans of times that were taken by another clock than a trace's."""

import time
from itertools import count

import pytest
from pagoda_runtime.server.tracing import monotonic_epoch


@pytest.mark.parametrize("lost_before", range(6))
def test_a_core_lost_between_two_clocks_moves_no_span(
    monkeypatch: pytest.MonkeyPatch, lost_before: int
) -> None:
    """A second passes before one of the readings, a nanosecond before each other one."""
    now, readings = 0, count()

    def read(epoch: int) -> int:
        nonlocal now
        now += 10**9 if next(readings) == lost_before else 1
        return epoch + now

    monkeypatch.setattr(time, "monotonic_ns", lambda: read(0))
    monkeypatch.setattr(time, "time_ns", lambda: read(10**18))
    assert monotonic_epoch() - 10**18 in (0, 1)
