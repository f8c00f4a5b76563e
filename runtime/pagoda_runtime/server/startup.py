"""How far the start has come: phases with their seconds, and bytes of weights within one."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from pagoda_runtime.server import ipc


class StartPhase(StrEnum):
    """What the engine does before it serves, in order."""

    ENGINE = "engine"  # its process starts and imports what it needs
    WEIGHTS = "weights"
    SELF_TEST = "self_test"
    DONE = "done"


class Startup:
    """Follows the engine's start. `on_phase(phase, seconds)` is called as each phase ends, and with
    `total` in the end.
    """

    def __init__(
        self,
        on_phase: Callable[[str, float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_phase = on_phase
        self._clock = clock
        self._begun = self._entered = clock()
        self._seconds: dict[str, float] = {}
        self.phase = StartPhase.ENGINE
        self.loaded_bytes = 0
        self.total_bytes = 0

    @property
    def elapsed(self) -> float:
        """Seconds since the start, up to its end."""
        return self._seconds.get("total", self._clock() - self._begun)

    def on_loading(self, message: ipc.Progress | ipc.Warming) -> None:
        """Take over what the engine says."""
        if isinstance(message, ipc.Progress):
            self._enter(StartPhase.WEIGHTS)
            self.loaded_bytes, self.total_bytes = message.loaded_bytes, message.total_bytes
        else:
            self._enter(StartPhase.SELF_TEST)

    def finish(self) -> None:
        """The replica is ready."""
        self._enter(StartPhase.DONE)
        self._note("total", self._clock() - self._begun)

    def progress(self) -> dict[str, Any]:
        """The phase, bytes of weights as far as they are known, and seconds since the start."""
        bytes_ = {"loaded_bytes": self.loaded_bytes, "total_bytes": self.total_bytes}
        return {
            "phase": self.phase,
            **(bytes_ if self.total_bytes else {}),
            "elapsed_seconds": round(self.elapsed, 3),
        }

    def phases(self) -> dict[str, float]:
        """Seconds by phase; the one that goes on counts so far."""
        seconds = dict(self._seconds)
        if self.phase is not StartPhase.DONE:
            seconds[self.phase] = self._clock() - self._entered
        return {name: round(value, 3) for name, value in seconds.items()}

    def _enter(self, phase: StartPhase) -> None:
        if phase is self.phase:
            return
        now = self._clock()
        self._note(self.phase, now - self._entered)
        self.phase, self._entered = phase, now

    def _note(self, name: str, seconds: float) -> None:
        self._seconds[name] = seconds
        self._on_phase(name, seconds)
