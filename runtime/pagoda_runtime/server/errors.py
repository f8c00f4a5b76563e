"""Errors in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pagoda_runtime.server.engine_client import (
    DeadlineError,
    EngineError,
    OutOfMemoryError,
    QueueFullError,
    RequestRejectedError,
)

# Seconds. openai-python waits by its own rules when told to wait for longer than a minute.
_RETRY_AFTER = (1.0, 60.0)


class ErrorDetail(msgspec.Struct):
    """What went wrong. param: the field of the request that caused it. code: for programs to read."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct):
    """The body of every answer that is not a success, and the last event of a stream that failed."""

    error: ErrorDetail


class ApiError(Exception):
    """A refusal the client can act on."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def body(self) -> ErrorBody:
        """The JSON form, for a response or for an event of a stream that has begun."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return ErrorBody(ErrorDetail(self.message, kind, self.param, self.code))


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: sending the same request again cannot help."""
    return ApiError(400, message, param=param, code=code)


def unsupported(name: str, advice: str = "") -> ApiError:
    """400: this would change the answer, and cannot be done here."""
    message = f"{name} is not supported by this server"
    return bad_request(f"{message}{advice and ': '}{advice}", name, "unsupported_parameter")


def unavailable(reason: str, *, retry_after: int, close: bool = False) -> ApiError:
    """503: this replica cannot take the request now, another one may."""
    headers = {"Retry-After": str(retry_after)} | ({"Connection": "close"} if close else {})
    return ApiError(503, f"this replica is not serving: {reason}", code=reason, headers=headers)


def queue_full(reason: str, retry_after: float) -> ApiError:
    """429: this replica has enough to do; the same request may be taken later, or elsewhere."""
    lowest, highest = _RETRY_AFTER
    seconds = max(lowest, min(highest, retry_after))
    headers = {
        "Retry-After": str(math.ceil(seconds)),
        "retry-after-ms": str(math.ceil(1000 * seconds)),
    }
    return ApiError(429, reason, code="queue_full", headers=headers)


def deadline_exceeded() -> ApiError:
    """504: the answer did not come in the time the client gave; it has no use for another try."""
    message = "the request's deadline passed before its answer was complete"
    return ApiError(504, message, code="deadline_exceeded", headers={"x-should-retry": "false"})


def from_engine(error: EngineError) -> ApiError:
    """What a client is told when the engine did not answer its request."""
    if isinstance(error, RequestRejectedError):
        return bad_request(str(error))
    if isinstance(error, QueueFullError):
        return queue_full(str(error), error.retry_after)
    if isinstance(error, OutOfMemoryError):
        return unavailable("out_of_memory", retry_after=1)
    if isinstance(error, DeadlineError):
        return deadline_exceeded()
    # Its reason is for the log and the probes; the client can only go elsewhere.
    return unavailable("engine_dead", retry_after=1, close=True)


def json_response(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """`content` as a JSON response."""
    return Response(
        msgspec.json.encode(content),
        status,
        headers=dict(headers or {}),
        media_type="application/json",
    )


async def handle_api_error(request: Request, error: Exception) -> Response:
    """Starlette handler for ApiError."""
    assert isinstance(error, ApiError)
    return json_response(error.body(), error.status, error.headers)


async def handle_http_error(request: Request, error: Exception) -> Response:
    """Starlette handler for its own errors: unknown path, wrong method."""
    assert isinstance(error, HTTPException)
    api_error = ApiError(
        error.status_code,
        f"{error.detail}: {request.method} {request.url.path}",
        headers=error.headers,
    )
    return json_response(api_error.body(), api_error.status, api_error.headers)


async def handle_crash(request: Request, error: Exception) -> Response:
    """Starlette handler for everything else; details go to the log, not to the client."""
    return json_response(ApiError(500, "internal error").body(), 500)
