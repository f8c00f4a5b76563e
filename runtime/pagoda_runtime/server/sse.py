"""Answers that take a while: server-sent events, and noticing that nobody is listening any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

import msgspec
from starlette.types import Receive, Send

from pagoda_runtime.server.errors import ErrorBody

PING_SECONDS = 15.0
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx, and ingresses made of it, would collect the stream otherwise.
    (b"x-accel-buffering", b"no"),
]
T = TypeVar("T")


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Run `work`; cancel it and return None when the client goes away. The body must have been
    read before.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for future in (task, gone):
            future.cancel()
        # Let the work clean up (abort its request) before this returns.
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_events(
    send: Send, events: AsyncGenerator[msgspec.Struct, None], ping_seconds: float = PING_SECONDS
) -> None:
    """Send each event as `data: JSON`, then `data: [DONE]`.

    While nothing happens (a long queue, a long prompt) a comment goes out now and then, which keeps
    proxies from closing the connection. An ErrorBody is the last event: no [DONE] follows it.
    """
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    last: bytes = b"data: [DONE]\n\n"
    pings = _Pings(send, ping_seconds)
    try:
        async for event in events:
            line = b"data: " + msgspec.json.encode(event) + b"\n\n"
            if isinstance(event, ErrorBody):
                last = line
                break
            await send({"type": "http.response.body", "body": line, "more_body": True})
            pings.something_was_sent()
    finally:
        await pings.stop()
        await events.aclose()
    await send({"type": "http.response.body", "body": last, "more_body": False})


class _Pings:
    """A task of its own: waiting for each event with a timeout would cost more than sending it."""

    def __init__(self, send: Send, seconds: float) -> None:
        self._send = send
        self._seconds = seconds
        self._last = time.monotonic()
        self._task = asyncio.create_task(self._run())

    def something_was_sent(self) -> None:
        """No ping is due before the stream has been silent again."""
        self._last = time.monotonic()

    async def stop(self) -> None:
        """No more pings when this returns."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            silent = time.monotonic() - self._last
            if silent < self._seconds:
                await asyncio.sleep(self._seconds - silent)
                continue
            await self._send(
                {"type": "http.response.body", "body": b": ping\n\n", "more_body": True}
            )
            self.something_was_sent()
