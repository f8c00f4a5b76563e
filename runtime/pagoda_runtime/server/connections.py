"""Limits of connections: how many there may be, and how long one may take to say what it wants.

uvicorn's own limit answers everybody with 503, probes too, which would have the kubelet restart a
server for being popular; it waits for ever for a request's head; and it closes connections under
its last answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import sys
from typing import Any

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from pagoda_runtime.server.auth import OPEN_PATHS, refuse
from pagoda_runtime.server.errors import ApiError, bad_request, json_response, unavailable
from pagoda_runtime.server.linger import Lingering

HEAD_SECONDS = 10.0
HEAD_BYTES = 16 << 10  # of one that is not whole; trailers too
# Connections above the limit that are kept, to be told that they are too many and to let the
# kubelet in. Those above are closed unheard.
RESERVE = 64
# Files, sockets and pipes of the process itself.
_OTHER_FILES = 128
_EXCESS = "pagoda.excess_connection"


def protocol(max_connections: int) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol with both limits, errors in OpenAI's form, and a close that loses no
    answer.
    """

    # Not httptools, which would save 27 µs per token: it bounds neither a head nor trailers.
    class LimitedProtocol(H11Protocol):
        app_state: dict[str, Any]
        _head_timer: asyncio.TimerHandle | None = None
        _lingers = True  # when it is closed from this side

        def connection_made(  # type: ignore[override]
            self, transport: asyncio.Transport
        ) -> None:
            super().connection_made(transport)
            count = len(self.connections)
            if count > max_connections + RESERVE:
                self._lingers = False
                transport.abort()
            elif count > max_connections:
                self.app_state = self.app_state | {_EXCESS: True}
            self._time_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._time_head()

        def eof_received(self) -> None:
            self._lingers = False

        def connection_lost(self, exc: Exception | None) -> None:
            """All is written; the transport closes its socket when this returns."""
            self._stop_timer()
            super().connection_lost(exc)
            if exc is None and self._lingers:
                with contextlib.suppress(OSError):  # no file left
                    self._linger(self.transport.get_extra_info("socket").dup())

        def shutdown(self) -> None:
            # Clients' pools keep idle connections open; nobody waits for an answer there.
            self._lingers = self.conn.their_state is not h11.IDLE
            super().shutdown()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._stop_timer()  # An idle connection has uvicorn's keep-alive timer.

        def send_400_response(self, msg: str) -> None:
            self._refuse(_refusal(sys.exception(), msg))

        def _time_head(self) -> None:
            """Let the timer run while a request's head is awaited; bytes of it do not reset it."""
            in_request = self.cycle is not None and not self.cycle.response_complete
            is_upgraded = self.transport.get_protocol() is not self
            if in_request or is_upgraded or self.transport.is_closing():
                self._stop_timer()
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

        def _stop_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _too_slow(self) -> None:
            message = f"the request's head was not there after {HEAD_SECONDS:g} s"
            self._refuse(ApiError(408, message, code="request_timeout"))

        def _refuse(self, error: ApiError) -> None:
            """Say what is wrong with a request that the application does not see, and close; only
            close if it has an answer already.
            """
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                response = json_response(error.body(), error.status, {"Connection": "close"})
                headers = self.server_state.default_headers + response.raw_headers
                start = h11.Response(
                    status_code=error.status,
                    headers=headers,
                    reason=STATUS_PHRASES[error.status],
                )
                for event in (start, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
                    self.transport.write(self.conn.send(event))
            self.transport.close()

        def _linger(self, connection: socket.socket) -> None:
            """It counts as a connection until its end, so that no client gets more of them so."""
            self.connections.add(self)
            Lingering(connection, self.loop, lambda: self.connections.discard(self))

    return LimitedProtocol


def _refusal(cause: BaseException | None, message: str) -> ApiError:
    """Say what is wrong. uvicorn only says that something is, while it handles h11's error."""
    if not isinstance(cause, h11.RemoteProtocolError):
        return bad_request(message)
    if cause.error_status_hint == 431:
        message = f"the request's line, headers or trailers take more than {HEAD_BYTES} bytes"
        return ApiError(431, message, code="headers_too_large")
    return bad_request(f"this is no HTTP/1.1 request: {cause}")


class ConnectionLimit:
    """ASGI middleware: who comes over a connection above the limit gets 503; probes are answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, or refuse."""
        state: dict[str, Any] = scope.get("state", {})
        if _EXCESS not in state or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        error = unavailable("too_many_connections", retry_after=1, close=True)
        await refuse(scope, receive, send, error)


def allow_files(max_connections: int) -> None:
    """Raise this process's limit of open files to what its connections need, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + RESERVE + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
