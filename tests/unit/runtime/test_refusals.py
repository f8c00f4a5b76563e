"""What a client is told when the engine did not answer its request."""

import pytest
from pagoda_runtime.server.app import _as_api_error
from pagoda_runtime.server.engine_client import (
    DeadlineError,
    EngineDeadError,
    QueueFullError,
    RequestRejectedError,
)


@pytest.mark.parametrize(
    ("error", "status", "kind", "code", "headers"),
    [
        (RequestRejectedError("too long"), 400, "invalid_request_error", None, {}),
        (
            QueueFullError("9 requests are waiting"),
            429,
            "rate_limit_error",
            "queue_full",
            {"Retry-After": "1"},
        ),
        (
            DeadlineError(),
            504,
            "server_error",
            "deadline_exceeded",
            {"x-should-retry": "false"},
        ),
        (
            EngineDeadError("out of memory"),
            503,
            "server_error",
            "engine_dead",
            {"Retry-After": "1", "Connection": "close"},
        ),
    ],
)
def test_the_status_says_whether_another_try_helps(
    error: Exception, status: int, kind: str, code: str | None, headers: dict[str, str]
) -> None:
    told = _as_api_error(error)
    body = told.body()["error"]
    assert (told.status, body["type"], body["code"]) == (status, kind, code)
    assert told.headers == headers
