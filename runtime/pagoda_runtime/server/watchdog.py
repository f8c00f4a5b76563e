"""Tells an engine that hangs from one that is busy or still loading."""

from __future__ import annotations

import asyncio

from pagoda_runtime.server.engine_client import EngineClient
from pagoda_runtime.server.ipc import HEARTBEAT_SECONDS

# An engine that said nothing for this long without work in hand hangs.
_IDLE_SILENCE = 60.0
# Whatever a step may take: in between two heartbeats nobody hangs.
_LEAST_IDLE_SILENCE = 3 * HEARTBEAT_SECONDS
_LOOK_SECONDS = 0.25


class Watchdog:
    """Judges the engine by the time since it last spoke; a step may take `step_timeout` seconds."""

    def __init__(self, engine: EngineClient, step_timeout: float) -> None:
        self._engine = engine
        self._step_timeout = step_timeout

    @property
    def hung(self) -> str:
        """What is to be said about a hung engine; empty if it does not hang.

        While it loads, and says nothing, it only has to live.
        """
        if not self._engine.loaded.is_set():
            return ""
        limit = self._step_timeout
        if not self._engine.num_active:
            limit = max(_LEAST_IDLE_SILENCE, min(_IDLE_SILENCE, limit))
        silence = self._engine.silence
        return f"engine hung: silent for {silence:.0f} s" if silence > limit else ""

    async def bite(self) -> None:
        """Give the engine up as soon as it hangs. For when we are to end anyway: nothing would
        finish, and whoever waits learns it at once.
        """
        while not (hung := self.hung):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)
        self._engine.give_up(hung)
