"""From HTTP to an endpoint's handler and back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from pagoda_runtime.server import sse
from pagoda_runtime.server.api.context import Api
from pagoda_runtime.server.body import read_body
from pagoda_runtime.server.errors import json_response

# Given body, headers and where to send a stream; returns the answer, or None if it was streamed.
Handler = Callable[[Api, bytes, Headers, Send], Awaitable[msgspec.Struct | None]]


class Endpoint:
    """A handler as a bare ASGI app: it counts as in flight until its last byte is out, and is
    cancelled when the client goes away.
    """

    def __init__(self, api: Api, handler: Handler) -> None:
        self._api = api
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        config = self._api.config
        with self._api.state.admitted():
            try:
                body = await read_body(
                    scope, receive, max_bytes=config.max_body_bytes, seconds=config.body_timeout
                )
            except ClientDisconnect:
                return
            work = self._handle(body, Headers(scope=scope), send)
            answer = await sse.unless_disconnected(receive, work)
            if answer is not None:
                await json_response(answer)(scope, receive, send)

    async def _handle(self, body: bytes, headers: Headers, send: Send) -> msgspec.Struct | None:
        return await self._handler(self._api, body, headers, send)
