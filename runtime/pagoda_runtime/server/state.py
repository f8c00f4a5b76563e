"""What this replica is doing, as seen by probes and by new requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum

from pagoda_runtime.server.errors import unavailable


class Phase(Enum):
    """The life of a replica, in order; any phase can end in DEAD."""

    LOADING = "loading"
    WARMING = "warming"  # The model is loaded; the self-test runs.
    READY = "ready"
    DRAINING = "draining"  # Not ready any more, but whoever has not heard of that is still served.
    REFUSING = "refusing"  # Finishing what is here, taking nothing new.
    DEAD = "engine_dead"


class ReplicaState:
    """The phase and the number of requests in flight."""

    def __init__(self, on_rejection: Callable[[str], None] = lambda reason: None) -> None:
        self._on_rejection = on_rejection
        self.phase = Phase.LOADING
        self._in_flight = 0
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def not_ready_reason(self) -> str | None:
        """None when ready, else loading, warming, draining or engine_dead."""
        return {Phase.READY: None, Phase.REFUSING: Phase.DRAINING.value}.get(
            self.phase, self.phase.value
        )

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request for as long as it is served; ApiError 503 if it cannot be."""
        reason = self.not_ready_reason
        if reason is not None and self.phase is not Phase.DRAINING:
            self._on_rejection(reason)
            if self.phase in (Phase.LOADING, Phase.WARMING):
                raise unavailable(reason, retry_after=2)
            # Closing makes the client's next attempt pick another replica.
            raise unavailable(reason, retry_after=1, close=True)
        self._in_flight += 1
        self.idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self.idle.set()
