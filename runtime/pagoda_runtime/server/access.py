"""One log line and one count per HTTP request."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pagoda_runtime.server.metrics import Metrics

log = logging.getLogger("pagoda.access")

# What is asked every few seconds, by machines, is logged at `debug`.
_ROUTINE = frozenset({"/livez", "/readyz", "/startupz", "/health", "/metrics"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# The client had gone before there was an answer: nginx's status for it.
_CLIENT_GONE = 499


class AccessLog:
    """ASGI middleware. `paths` are those of the application: anybody can ask for others, and a
    metric's labels must not grow by that.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, and tell how it went. Queries are not logged: they are the client's words."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        begun = time.monotonic()
        status = _CLIENT_GONE

        async def watched(message: Message) -> None:
            nonlocal status
            match message["type"]:
                case "http.response.start" | "websocket.http.response.start":
                    status = message["status"]
                case "websocket.accept":
                    status = 101
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            status = 500
            raise
        finally:
            self._tell(scope, status, time.monotonic() - begun)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        method, path = scope.get("method", "GET"), scope["path"]
        handler = path if path in self._paths else "other"
        self._metrics.on_response(
            method if method in _METHODS else "other", handler, status, seconds
        )
        # 503 is a probe's way of saying no.
        is_routine = path in _ROUTINE and (status < 500 or status == 503)
        log.log(
            logging.DEBUG if is_routine else logging.INFO,
            "request",
            extra={
                "method": method,
                "path": path,
                "status": status,
                "seconds": round(seconds, 4),
            },
        )
