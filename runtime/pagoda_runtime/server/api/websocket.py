"""Chats over a WebSocket, at the same path as over HTTP.

Each text message of the client is the JSON of one chat request. Each is answered in turn with the
chunks that a stream would have, one to a message, and `[DONE]`; or with an error object, which ends it
too. A client that closes the connection aborts what runs.
"""

from __future__ import annotations

import asyncio

import msgspec
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from pagoda_runtime.server.api import exchange
from pagoda_runtime.server.api.context import Api
from pagoda_runtime.server.engine_client import ENGINE_ERRORS
from pagoda_runtime.server.errors import ApiError, ErrorBody, from_engine

# Requests that may wait on one connection, for those who do not wait for their answers.
_MAX_WAITING = 16
_POLICY_VIOLATION = 1008


class ChatSocket:
    """A bare ASGI app for WebSocket connections."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        requests: asyncio.Queue[bytes] = asyncio.Queue(_MAX_WAITING)
        reading = asyncio.ensure_future(self._read(socket, requests))
        answering = asyncio.ensure_future(self._answer(socket, requests))
        try:
            await asyncio.wait((reading, answering), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, answering):
                task.cancel()
            # Let the running request be aborted before this returns.
            results = await asyncio.gather(reading, answering, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect):
                raise result

    async def _read(self, socket: WebSocket, requests: asyncio.Queue[bytes]) -> None:
        """Put the client's messages in line; return when it has gone or will not be heard."""
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            try:
                requests.put_nowait(message["bytes"] if text is None else text.encode())
            except asyncio.QueueFull:
                await socket.close(_POLICY_VIOLATION, f"more than {_MAX_WAITING} requests waiting")
                return

    async def _answer(self, socket: WebSocket, requests: asyncio.Queue[bytes]) -> None:
        while True:
            body = await requests.get()
            try:
                await self._run(socket, body)
            except ApiError as error:
                await _send(socket, error.body())

    async def _run(self, socket: WebSocket, body: bytes) -> None:
        with self._api.state.admitted():
            chat = await exchange.chat(self._api, body, socket.headers)
            try:
                with chat.generation:
                    await chat.generation.accepted()
                    async for event in chat.events():
                        await _send(socket, event)
                        if isinstance(event, ErrorBody):
                            return
            except ENGINE_ERRORS as error:
                raise from_engine(error) from error
            await socket.send_text("[DONE]")


async def _send(socket: WebSocket, event: msgspec.Struct) -> None:
    await socket.send_text(msgspec.json.encode(event).decode())
