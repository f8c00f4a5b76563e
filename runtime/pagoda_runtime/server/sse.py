"""Answers that take a while: server-sent events, and noticing that nobody is listening any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

import msgspec
from starlette.types import Receive, Send

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
    send: Send, events: AsyncGenerator[dict[str, Any], None], ping_seconds: float = PING_SECONDS
) -> None:
    """Send each event as `data: JSON`, then `data: [DONE]`.

    While nothing happens (a long queue, a long prompt) a comment goes out now and then, which keeps
    proxies from closing the connection. An event with the key `error` is the last one: no [DONE]
    follows it.
    """
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    last: bytes = b"data: [DONE]\n\n"
    pending = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait((pending,), timeout=ping_seconds)
            if not done:
                await send({"type": "http.response.body", "body": b": ping\n\n", "more_body": True})
                continue
            event = pending.result()
            if event is None:
                break
            line = b"data: " + msgspec.json.encode(event) + b"\n\n"
            if "error" in event:
                last = line
                break
            await send({"type": "http.response.body", "body": line, "more_body": True})
            pending = asyncio.ensure_future(anext(events, None))
    finally:
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)
        await events.aclose()
    await send({"type": "http.response.body", "body": last, "more_body": False})
