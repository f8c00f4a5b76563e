"""How long a queue takes to drain, measured: what a client that is refused should wait."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_WINDOW = 30.0


class Pace:
    """The rate at which requests leave the engine, over the last 30 s of it being busy."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: deque[float] = deque()
        self._inside = 0
        self._busy_since = 0.0

    def began(self) -> None:
        """A request went in."""
        if self._inside == 0:
            # Idle time says nothing about how fast a queue drains.
            self._ends.clear()
            self._busy_since = self._clock()
        self._inside += 1

    def ended(self) -> None:
        """One came out, whatever the reason: its place is free."""
        self._inside -= 1
        self._ends.append(self._clock())

    def seconds(self, waiting: int) -> float:
        """Until that many have left; until nobody has, as long again as it has lasted already."""
        now = self._clock()
        while self._ends and self._ends[0] < now - _WINDOW:
            self._ends.popleft()
        busy = min(_WINDOW, now - self._busy_since)
        return busy * waiting / len(self._ends) if self._ends else busy
