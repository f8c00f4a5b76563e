"""What a client is told when the engine did not answer its request, and for how long it should wait."""

import pytest
from pagoda_runtime.server.engine_client import (
    DeadlineError,
    EngineDeadError,
    EngineError,
    QueueFullError,
    RequestRejectedError,
)
from pagoda_runtime.server.errors import from_engine
from pagoda_runtime.server.pace import Pace


@pytest.mark.parametrize(
    ("error", "status", "kind", "code", "headers"),
    [
        (RequestRejectedError("too long"), 400, "invalid_request_error", None, {}),
        (
            QueueFullError("9 requests are waiting", 2.3456),
            429,
            "rate_limit_error",
            "queue_full",
            {"Retry-After": "3", "retry-after-ms": "2346"},
        ),
        (
            QueueFullError("9 requests are waiting", 0.0),
            429,
            "rate_limit_error",
            "queue_full",
            {"Retry-After": "1", "retry-after-ms": "1000"},
        ),
        (
            QueueFullError("9 requests are waiting", 1e9),
            429,
            "rate_limit_error",
            "queue_full",
            {"Retry-After": "60", "retry-after-ms": "60000"},
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
    error: EngineError, status: int, kind: str, code: str | None, headers: dict[str, str]
) -> None:
    told = from_engine(error)
    body = told.body().error
    assert (told.status, body.type, body.code) == (status, kind, code)
    assert told.headers == headers


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_wait_is_the_queue_over_the_rate() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.began()  # One that stays.
    for _ in range(10):
        pace.began()
        clock.now += 0.5
        pace.ended()
    assert pace.seconds(8) == pytest.approx(4.0), "two leave in a second"
    for _ in range(100):
        pace.began()
        clock.now += 2.0
        pace.ended()
    assert pace.seconds(8) == pytest.approx(15.0, rel=0.1), "now it is one in two seconds"


def test_idle_time_does_not_count() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.began()
    clock.now += 1.0
    pace.ended()
    clock.now += 1000.0
    pace.began()
    pace.began()
    clock.now += 3.0
    assert pace.seconds(8) == pytest.approx(3.0), "nobody has left yet"
    pace.ended()
    assert pace.seconds(8) == pytest.approx(24.0)
