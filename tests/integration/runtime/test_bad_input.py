"""Broken, slow, huge and hostile requests: a clear answer, and nothing left behind."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.integration.runtime.conftest import Server, eventually
from tests.integration.runtime.test_api import CHAT, error_of, idle
from tests.integration.runtime.test_lifecycle import stream

Start = Callable[..., Server]
JSON = {"content-type": "application/json"}
PATHS = ["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize", "/detokenize"]


@pytest.fixture(autouse=True)
def nothing_is_left(shared: Server) -> Iterator[None]:
    yield
    eventually(lambda: idle(shared), "every block is free")
    assert not [line for line in shared.logs if line["level"] in ("error", "critical")]


def raw(server: Server, data: bytes, *, end: bool = False) -> bytes:
    """Send bytes, and return what comes back until the server closes or has answered."""
    address = ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(data)
        if end:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while not answer.endswith(b"}}") and (more := connection.recv(65536)):
            answer += more
        return answer


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b'{"model": 3}',
        b'{"priority": NaN}',
        b'{"model": "\\ud800"}',
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"input": ' + b"9" * 10_000 + b"}",
    ],
)
def test_what_is_no_request(shared: Server, path: str, body: bytes) -> None:
    response = shared.http.post(shared.url + path, content=body)
    assert response.status_code == 400
    error_of(response)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_the_content_type_does_not_matter(shared: Server, content_type: str) -> None:
    body = json.dumps({"prompt": "a", "max_tokens": 1})
    response = shared.http.post(
        shared.url + "/v1/completions", content=body, headers={"content-type": content_type}
    )
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "\x00\ufffe\U0010ffff", "max_tokens": 1}),
        ("/v1/completions", {"prompt": "a", "max_tokens": 1, "stop": "\x00"}),
        ("/v1/completions", {"prompt": "a", "max_tokens": 1, "cache_salt": "ü" * 1000}),
        ("/v1/completions", {"prompt": "a", "max_tokens": 1, "seed": -(2**63), "n": 2}),
        ("/v1/completions", {"prompt": "a", "max_tokens": 1, "seed": 2**63 - 1, "n": 2}),
        ("/v1/completions", {"prompt": "a", "max_tokens": 1, "priority": -(2**63)}),
        ("/v1/chat/completions", {"messages": CHAT, "max_tokens": 1, "chat_template_kwargs": {}}),
        (
            "/v1/chat/completions",
            {"messages": CHAT, "max_tokens": 1, "chat_template_kwargs": {"messages": 1}},
        ),
    ],
)
def test_what_is_strange_but_right(shared: Server, path: str, body: dict[str, Any]) -> None:
    assert shared.post(path, **body).status_code == 200


def test_every_error_is_openais(shared: Server) -> None:
    for method, path, status in (
        ("GET", "/", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/models/nobody", 404),
        ("POST", "/v1/responses", 404),
        ("POST", "/v1/models", 405),
        ("DELETE", "/v1/completions", 405),
        ("GET", "/v1/chat/completions", 405),
        ("PUT", "/readyz", 405),
    ):
        response = shared.http.request(method, shared.url + path)
        assert response.status_code == status, path
        error_of(response)
        assert ("allow" in response.headers) == (status == 405)


def test_request_ids(shared: Server) -> None:
    def told(given: str | None) -> str:
        headers = {} if given is None else {"x-request-id": given}
        response = shared.http.get(shared.url + "/v1/models/nobody", headers=headers)
        return response.headers["x-request-id"]

    assert told("mine-1.2:3") == "mine-1.2:3"
    made = told(None)
    assert len(made) == 32
    for strange in ("", "a b", 'a"b', "x" * 129):
        assert told(strange) not in (strange, made)


# --- sizes and speeds ---------------------------------------------------------------------------


def test_huge_bodies(start: Start) -> None:
    server = start("--max-body-bytes", "100000", "--body-timeout", "1").wait_ready()
    fits = {"prompt": "a", "max_tokens": 1, "user": "x" * 99_000}
    assert server.post("/v1/completions", **fits).status_code == 200

    def chunks() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * 10_000

    for content in (b" " * 100_001, chunks()):
        with httpx.Client(timeout=60) as client:  # type: ignore[arg-type]
            response = client.post(server.url + "/v1/completions", content=content)
        assert response.status_code == 413
        assert error_of(response)["code"] == "request_too_large"

    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n"
    asking = head + b"content-length: 900000\r\nexpect: 100-continue\r\n\r\n"
    assert raw(server, asking).startswith(b"HTTP/1.1 413 "), "before it is sent"

    # Too slow, then gone in the middle.
    begun = time.monotonic()
    slow = raw(server, head + b"content-length: 10\r\n\r\n{")
    assert slow.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in slow.lower()
    assert b'"code":"request_timeout"' in slow
    assert time.monotonic() - begun > 0.9
    raw(server, head + b"content-length: 10\r\n\r\n{", end=True)
    assert server.get("/readyz").status_code == 200
    assert idle(server)


# --- full queues and deadlines ------------------------------------------------------------------


def test_a_stream_that_meets_a_full_queue_gets_a_status(start: Start) -> None:
    server = start("--min-step-ms", "20", "--max-num-seqs", "1", "--max-num-queued-reqs", "2")
    server.wait_ready()
    running = stream(server)
    # All or none: two places in the queue are not enough for three.
    for body in ({"n": 3, "max_tokens": 1}, {"n": 3, "max_tokens": 1, "stream": True}):
        refused = server.complete("a", **body)
        assert refused.status_code == 429
        assert error_of(refused)["code"] == "queue_full"
        seconds = int(refused.headers["retry-after"])
        assert 1 <= seconds <= 60
        assert 0 <= 1000 * seconds - int(refused.headers["retry-after-ms"]) < 1000
        eventually(lambda: server.metric("num_requests_waiting") == 0, "the others are aborted")
    assert server.metric("num_requests_running") == 1
    held = server.metric("kv_blocks_total") - server.metric("kv_blocks_free")
    needed = server.metric("generation_tokens_total") / 32
    assert held <= needed + 2, "only the running one holds blocks"
    server.process.kill()
    running.exception()


def test_the_wait_is_as_long_as_the_queue(start: Start) -> None:
    """Two seconds a request and two that wait: the next one is told to wait for four."""
    server = start("--min-step-ms", "20", "--max-num-seqs", "1", "--max-num-queued-reqs", "2")
    server.wait_ready()
    body = {"max_tokens": 900, "ignore_eos": True}  # until the server is killed
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(server.complete, "a", **body | {"max_tokens": 100})
        eventually(lambda: server.metric("generation_tokens_total") > 0, "the first runs")
        others = [pool.submit(server.complete, "a", **body) for _ in range(2)]
        assert first.result().status_code == 200
        others.append(pool.submit(server.complete, "a", **body))
        eventually(lambda: server.metric("num_requests_waiting") == 2, "two wait")
        refused = server.complete("a", **body)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after-ms"]) >= 4000
        assert int(refused.headers["retry-after"]) >= 4
        server.process.kill()
        assert all(other.exception() is not None for other in others)


def test_deadlines(shared: Server) -> None:
    body = {"max_tokens": 300, "ignore_eos": True}
    late = shared.complete("a", timeout_ms=200, **body)
    assert (late.status_code, error_of(late)["code"]) == (504, "deadline_exceeded")
    assert late.headers["x-should-retry"] == "false"
    by_header = shared.http.post(
        shared.url + "/v1/completions",
        json={"prompt": "a", "n": 2, **body},
        headers={"x-request-timeout-ms": "200"},
    )
    assert by_header.status_code == 504
    events = shared.complete("a", timeout_ms=2000, stream=True, **body).text.split("\n\n")
    last = json.loads(events[-2].removeprefix("data: "))
    assert last["error"]["code"] == "deadline_exceeded", "an error, not a silent end"
    assert len(events) > 3
    assert shared.complete("a", timeout_ms=60_000, max_tokens=1).status_code == 200
    wrong = shared.http.post(
        shared.url + "/v1/completions", json={"prompt": "a"}, headers={"x-request-timeout-ms": "x"}
    )
    assert wrong.status_code == 400
