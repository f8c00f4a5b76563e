"""API keys: a file of them, and a guard in front of everything but the probes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from pagoda_runtime.config import ConfigError
from pagoda_runtime.server.errors import ApiError, json_response

log = logging.getLogger("pagoda.api")

# What the kubelet asks, which has no key.
OPEN_PATHS = frozenset({"/livez", "/readyz", "/startupz", "/health"})
# A Secret's volume follows the Secret within a minute or so; a second more is none.
_LOOK_SECONDS = 1.0


class ApiKeys:
    """The keys of a file: one a line, empty lines and those that begin with # aside.

    Only their SHA-256 is kept. The file is looked at again when it is asked about, at most once a
    second; a Secret's volume, which swaps a symlink above it, counts as a change. Keys that cannot
    be read any more stay in force.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raise ConfigError if the file cannot be read or has no key."""
        self._path = path
        self._clock = clock
        self._looked_at = clock()
        self._version = _version(path)
        try:
            self._digests = _read(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--api-key-file {path}: {_reason(error)}") from error

    def allow(self, key: bytes) -> bool:
        """Tell whether this is one of the keys, in a time that does not depend on which or how
        much of it is right.
        """
        self._refresh()
        digest = _digest(key)
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found

    def _refresh(self) -> None:
        if (now := self._clock()) < self._looked_at + _LOOK_SECONDS:
            return
        self._looked_at = now
        if (version := _version(self._path)) == self._version:
            return
        self._version = version
        try:
            self._digests = _read(self._path)
        except (OSError, ValueError) as error:
            log.error("API keys not reloaded", extra={"reason": _reason(error)})
            return
        log.info("API keys reloaded", extra={"keys": len(self._digests)})


class ApiKeyGuard:
    """ASGI middleware: 401 in OpenAI's form without a key. `open_paths` need none."""

    def __init__(
        self, app: ASGIApp, keys: ApiKeys, open_paths: frozenset[str] = OPEN_PATHS
    ) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, or refuse; a WebSocket before it is accepted."""
        is_open = scope["type"] == "lifespan" or scope["path"] in self._open_paths
        if is_open or self._keys.allow(_bearer(Headers(scope=scope))):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            401,
            "no valid API key: send `Authorization: Bearer KEY`",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
        await refuse(scope, receive, send, error)


async def refuse(scope: Scope, receive: Receive, send: Send, error: ApiError) -> None:
    """Answer a request, or a WebSocket before it is accepted, with an error."""
    if scope["type"] == "http":
        await json_response(error.body(), error.status, error.headers)(scope, receive, send)
        return
    await receive()  # websocket.connect
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})  # which the server makes a 403
        return
    response = json_response(error.body(), error.status, error.headers)
    start = {"status": error.status, "headers": response.raw_headers}
    await send({"type": "websocket.http.response.start"} | start)
    await send({"type": "websocket.http.response.body", "body": response.body})


def _bearer(headers: Headers) -> bytes:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip().encode("latin-1") if scheme.lower() == "bearer" else b""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _read(path: Path) -> Sequence[bytes]:
    lines = (line.strip() for line in path.read_bytes().splitlines())
    digests = [_digest(line) for line in lines if line and not line.startswith(b"#")]
    if not digests:
        raise ValueError("there is no key in it")
    return digests


def _version(path: Path) -> tuple[int, ...] | None:
    """What changes with the file's content, following symlinks; None if it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _reason(error: Exception) -> str:
    # An OSError's own text repeats the path.
    return (error.strerror or "unreadable") if isinstance(error, OSError) else str(error)
