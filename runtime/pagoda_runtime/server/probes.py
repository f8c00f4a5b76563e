"""What Kubernetes asks: does it live, is it ready, how far is its start?"""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pagoda_runtime.server.engine_client import EngineClient
from pagoda_runtime.server.errors import json_response
from pagoda_runtime.server.startup import StartPhase, Startup
from pagoda_runtime.server.state import Phase, ReplicaState
from pagoda_runtime.server.watchdog import Watchdog


class Probes:
    """The endpoints beside the OpenAI API. `tell` is given the words to end with, for whoever finds
    the process killed.
    """

    def __init__(
        self,
        engine: EngineClient,
        state: ReplicaState,
        startup: Startup,
        watchdog: Watchdog,
        tell: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._state = state
        self._startup = startup
        self._watchdog = watchdog
        self._tell = tell
        self._told_hung = False

    @property
    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/livez", self.livez),
            Route("/readyz", self.readyz),
            Route("/startupz", self.startupz),
            Route("/health", self.readyz),
        ]

    async def livez(self, request: Request) -> Response:
        """200 while the engine process lives and speaks; while it loads, and says nothing, it
        only has to live.
        """
        if self._engine.dead.is_set():
            return json_response({"status": "dead", "reason": self._engine.reason}, 503)
        hung = self._watchdog.hung
        if bool(hung) != self._told_hung:
            # Who kills us for this says only that a probe failed; if we live on, it is taken back.
            self._tell(hung)
            self._told_hung = bool(hung)
        if hung:
            return json_response({"status": "hung", "reason": hung}, 503)
        return json_response({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """200 when requests are welcome, else 503 with the reason; how far it is while loading."""
        reason = self._state.not_ready_reason
        if reason is None:
            return json_response({"status": "ready"})
        is_starting = self._state.phase in (Phase.LOADING, Phase.WARMING)
        progress = self._startup.progress() if is_starting else {}
        return json_response({"reason": reason} | progress, 503)

    async def startupz(self, request: Request) -> Response:
        """200 once it has started, whatever came later; else 503. Phases and their seconds."""
        done = self._startup.phase is StartPhase.DONE
        content = self._startup.progress() | {"phases": self._startup.phases()}
        return json_response(content, 200 if done else 503)
