"""The HTTP servers: what stands around the application, and uvicorn as it is run here."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from pagoda_runtime.config import ServeConfig
from pagoda_runtime.server.connections import HEAD_BYTES, protocol
from pagoda_runtime.server.linger import LINGER_SECONDS
from pagoda_runtime.server.metrics import Metrics

log = logging.getLogger("pagoda.api")

# How long connections get to close at the end.
FAREWELL_SECONDS = 1


class ListenError(Exception):
    """A port cannot be listened on; the message says why."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that queues connections from now on; ListenError if it cannot be."""
    try:
        return socket.create_server((host, port), backlog=2048)
    except OSError as error:
        raise ListenError(f"cannot listen on {host}:{port}: {error}") from error


def metrics_route(metrics: Metrics) -> Route:
    """`/metrics` in Prometheus' text format."""

    async def page(request: Request) -> Response:
        return Response(await metrics.page(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return Route("/metrics", page)


class HttpServer(uvicorn.Server):
    """uvicorn without its own idea of signals."""

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol(config.max_connections),
                h11_max_incomplete_event_size=HEAD_BYTES,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                ws_max_size=config.max_body_bytes,
                ws_per_message_deflate=False,  # Costs more per token than the token.
                # Longer than proxies keep idle connections, so that they close first.
                timeout_keep_alive=75,
                timeout_graceful_shutdown=FAREWELL_SECONDS + LINGER_SECONDS,
            )
        )

    async def run_on(self, listener: socket.socket) -> None:
        """Serve until `should_exit` is set."""
        await self.serve(sockets=[listener])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave SIGTERM to the lifecycle."""
        yield
