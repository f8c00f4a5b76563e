"""Request bodies, read with a limit in bytes and in time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from pagoda_runtime.server.errors import ApiError


async def read_body(scope: Scope, receive: Receive, *, max_bytes: int, seconds: float) -> bytes:
    """The whole body; ApiError 413 if it is longer than max_bytes, of which no more is kept, and 408
    if it takes longer than `seconds`. ClientDisconnect if the client leaves before its end.
    """
    for name, value in scope["headers"]:
        # Before reading, so that a client that asks first (Expect: 100-continue) need not send it.
        if name == b"content-length" and int(value) > max_bytes:
            raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(seconds):
            return await _read(receive, max_bytes)
    except TimeoutError as error:
        message = f"the request's body was not there after {seconds:g} s"
        raise ApiError(
            408, message, code="request_timeout", headers={"Connection": "close"}
        ) from error


async def _read(receive: Receive, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _too_large(max_bytes: int) -> ApiError:
    message = f"the request's body is larger than {max_bytes} bytes"
    return ApiError(413, message, code="request_too_large")
