"""What Kubernetes and Prometheus ask: liveness, readiness, metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pagoda_runtime.server.engine_client import EngineClient
from pagoda_runtime.server.errors import json_response
from pagoda_runtime.server.metrics import Metrics
from pagoda_runtime.server.state import ReplicaState
from pagoda_runtime.server.watchdog import Watchdog


class Probes:
    """The endpoints beside the OpenAI API. `tell` is given the words to end with, for whoever finds
    the process killed.
    """

    def __init__(
        self,
        engine: EngineClient,
        state: ReplicaState,
        metrics: Metrics,
        watchdog: Watchdog,
        tell: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._state = state
        self._metrics = metrics
        self._watchdog = watchdog
        self._tell = tell
        self._told_hung = False

    @property
    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/livez", self.livez),
            Route("/readyz", self.readyz),
            Route("/health", self.readyz),
            Route("/metrics", self.prometheus),
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
        """200 when requests are welcome, else 503 with the reason."""
        reason = self._state.not_ready_reason
        return json_response(
            {"status": "ready"} if reason is None else {"reason": reason}, 503 if reason else 200
        )

    async def prometheus(self, request: Request) -> Response:
        """The metrics page."""
        page = generate_latest(self._metrics.registry)
        return Response(page, headers={"Content-Type": CONTENT_TYPE_LATEST})
