"""Streams: pings, errors, and clients that go away."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from pagoda_runtime.server import sse
from pagoda_runtime.server.errors import ErrorBody, ErrorDetail

ERROR = ErrorBody(ErrorDetail("m", "t", None, None))
ERROR_LINE = b'data: {"error":{"message":"m","type":"t","param":null,"code":null}}\n\n'


class Wire:
    """Collects what is sent; `receive` blocks until `gone` is set."""

    def __init__(self) -> None:
        self.body: list[bytes] = []
        self.gone = asyncio.Event()
        self.sent = asyncio.Event()

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            self.body.append(message["body"])
            self.sent.set()

    async def receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def events(
    *items: Any, until: asyncio.Event | None = None
) -> AsyncGenerator[dict[str, Any], None]:
    for item in items:
        yield item
    if until is not None:
        await until.wait()


async def test_events_then_done() -> None:
    wire = Wire()
    await sse.send_events(wire.send, events({"a": 1}, {"b": 2}))
    assert wire.body == [b'data: {"a":1}\n\n', b'data: {"b":2}\n\n', b"data: [DONE]\n\n"]


async def test_an_error_is_the_last_event() -> None:
    wire = Wire()
    closed = asyncio.Event()

    async def source() -> AsyncGenerator[dict[str, Any], None]:
        try:
            yield {"a": 1}
            yield ERROR
            yield {"never": 1}
        finally:
            closed.set()

    await sse.send_events(wire.send, source())
    assert wire.body == [b'data: {"a":1}\n\n', ERROR_LINE]
    assert closed.is_set()


async def test_pings_while_nothing_happens() -> None:
    wire = Wire()
    more = asyncio.Event()
    task = asyncio.create_task(sse.send_events(wire.send, events(until=more), ping_seconds=0.01))
    while len(wire.body) < 3:
        await wire.sent.wait()
        wire.sent.clear()
    more.set()
    await task
    assert set(wire.body[:-1]) == {b": ping\n\n"}
    assert wire.body[-1] == b"data: [DONE]\n\n"


async def test_work_is_cancelled_and_cleaned_up_when_the_client_goes() -> None:
    wire = Wire()
    cleaned = False

    async def work() -> None:
        nonlocal cleaned
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned = True

    asyncio.get_running_loop().call_soon(wire.gone.set)
    assert await sse.unless_disconnected(wire.receive, work()) is None
    assert cleaned


async def test_results_and_errors_of_the_work_come_through() -> None:
    async def fail() -> None:
        raise KeyError("x")

    async def succeed() -> int:
        return 3

    assert await sse.unless_disconnected(Wire().receive, succeed()) == 3
    with pytest.raises(KeyError):
        await sse.unless_disconnected(Wire().receive, fail())


async def test_the_source_of_a_stream_is_closed_when_the_client_goes() -> None:
    wire = Wire()
    closed = asyncio.Event()

    async def source() -> AsyncGenerator[dict[str, Any], None]:
        try:
            yield {"a": 1}
            wire.gone.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    await sse.unless_disconnected(wire.receive, sse.send_events(wire.send, source()))
    assert closed.is_set()
