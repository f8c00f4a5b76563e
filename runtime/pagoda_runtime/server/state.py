"""What this replica is doing, as seen by probes and by new requests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from pagoda_runtime.server.errors import unavailable


class Phase(Enum):
    """The life of a replica, in order; any phase can end in DEAD."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"  # Not ready any more, but whoever has not heard of that is still served.
    REFUSING = "refusing"  # Finishing what is here, taking nothing new.
    DEAD = "engine_dead"


class ReplicaState:
    """The phase and the number of requests in flight."""

    def __init__(self) -> None:
        self.phase = Phase.LOADING
        self._in_flight = 0
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def not_ready_reason(self) -> str | None:
        """None when ready, else loading, draining or engine_dead."""
        return {Phase.READY: None, Phase.REFUSING: Phase.DRAINING.value}.get(
            self.phase, self.phase.value
        )

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request for as long as it is served; ApiError 503 if it cannot be."""
        if self.phase is Phase.LOADING:
            raise unavailable("loading", retry_after=2)
        if self.phase in (Phase.REFUSING, Phase.DEAD):
            # Closing makes the client's next attempt pick another replica.
            raise unavailable(self.not_ready_reason or "", retry_after=1, close=True)
        self._in_flight += 1
        self.idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self.idle.set()
