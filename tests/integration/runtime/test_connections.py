"""Too many clients, clients that take for ever to say what they want, and last answers."""

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.integration.runtime.conftest import Server, eventually

LIMIT = 20


@pytest.fixture(scope="module")
def small(model: Path) -> Iterator[Server]:
    server = Server(model, "--max-connections", str(LIMIT), "--min-step-ms", "50")
    yield server.wait_ready()
    server.process.kill()
    server.close()


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.wait_log("listening")["port"]), 30)


def rest(client: socket.socket) -> bytes:
    """What comes until the server ends the connection; ConnectionError if it resets it."""
    return b"".join(iter(lambda: client.recv(65536), b""))


def error_in(answer: bytes) -> dict[str, str | None]:
    """The error of a whole answer, which must be the last one of its connection."""
    head, body = answer.split(b"\r\n\r\n", 1)
    lines = head.lower().split(b"\r\n")
    assert b"connection: close" in lines
    assert b"content-type: application/json" in lines
    assert b"content-length: %d" % len(body) in lines
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error  # type: ignore[no-any-return]


def files(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def get(server: Server, path: str) -> httpx.Response:
    """Over a connection of its own."""
    return httpx.get(server.url + path, timeout=30)


def test_too_many_connections_are_told_so_and_probes_answered(small: Server) -> None:
    small.http.close()
    small.http = httpx.Client(timeout=30)
    with contextlib.ExitStack() as crowd:
        for _ in range(LIMIT):
            crowd.enter_context(connect(small))
        refused = eventually(
            lambda: (r := get(small, "/v1/models")).status_code == 503 and r, "refused"
        )
        assert refused.json()["error"]["code"] == "too_many_connections"
        assert refused.headers["connection"] == "close"
        assert refused.headers["retry-after"]
        for path in ("/livez", "/readyz"):
            assert get(small, path).status_code == 200
        # Far above the limit there is not even that; whoever was there before goes on.
        for _ in range(100):
            crowd.enter_context(connect(small))
        with pytest.raises(httpx.HTTPError):
            get(small, "/v1/models")
    eventually(lambda: get(small, "/v1/models").status_code == 200, "room again")


def test_a_last_answer_is_not_lost_on_a_body_still_to_come(small: Server) -> None:
    """Closing on bytes that nobody has read would reset the connection under the answer."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n"
    with contextlib.ExitStack() as crowd:
        for _ in range(LIMIT):
            crowd.enter_context(connect(small))
        client = crowd.enter_context(connect(small))
        client.sendall(head)
        begun = client.recv(1000)
        assert begun.startswith(b"HTTP/1.1 503 "), "told at once"
        for _ in range(2):
            client.sendall(b"0123456789")
        answer = begun + rest(client)
        assert b"too_many_connections" in answer
        silent = crowd.enter_context(connect(small))
        silent.sendall(head)
        assert b"503" in rest(silent), "and is not waited for"


# More than a server reads at once, so that it has an answer before it has read all of it.
MORE = b"x" * (4 << 20)
UPLOAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
BROKEN = {
    "no HTTP": (b"\x00" * (4 << 20), b"400 Bad Request", "illegal request line"),
    "no host": (b"GET /livez HTTP/1.1\r\n\r\n", b"400 Bad Request", "Host: header"),
    "a head that is too large": (
        b"GET /livez HTTP/1.1\r\nX-Large: " + MORE,
        b"431 Request Header Fields Too Large",
        "more than 16384 bytes",
    ),
    "a body that is broken": (
        UPLOAD + b"chunked\r\n\r\nthis is no length\r\n" + MORE,
        b"400 Bad Request",
        "illegal chunk header",
    ),
    "an encoding that is not known": (
        UPLOAD + b"gzip\r\n\r\n" + MORE,
        b"400 Bad Request",
        "Transfer-Encoding: chunked",
    ),
}


@pytest.mark.parametrize(("sent", "status", "told"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_http_gets_an_error_it_can_read(
    small: Server, sent: bytes, status: bytes, told: str
) -> None:
    with connect(small) as client:
        client.sendall(sent)
        answer = rest(client)
    assert answer.startswith(b"HTTP/1.1 " + status + b"\r\n")
    error = error_in(answer)
    assert error["type"] == "invalid_request_error"
    assert told in (error["message"] or "")


def test_requests_behind_the_last_one_do_not_cost_its_answer(small: Server) -> None:
    with connect(small) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        client.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        client.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n" * 50_000)
        answers = rest(client)
    assert answers.count(b"HTTP/1.1 200 OK") == 3, "two on a connection that is kept"
    assert answers.endswith(b"}"), "whole"


def test_a_body_that_breaks_after_its_answer(small: Server) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    too_large = b"2100001\r\n" + b" " * 0x2100001 + b"\r\n"
    with connect(small) as client:
        client.sendall(head + too_large)
        begun = client.recv(1000)
        client.sendall(b"this is no length\r\n" + b"x" * 100_000)
        answers = begun + rest(client)
    assert answers.startswith(b"HTTP/1.1 413 ")
    assert answers.count(b"HTTP/1.1 ") == 1
    assert not [line for line in small.logs if line["level"] in ("error", "critical")]


def test_who_does_not_stop_sending_is_cut_off(small: Server) -> None:
    """And nothing of the connection is left."""
    small.http.close()
    small.http = httpx.Client(timeout=30)
    # Whoever went before this request is gone when it is answered; its own connection is kept.
    small.get("/livez")
    before = files(small)

    def is_cut_off() -> bool:
        deadline = time.monotonic() + 30
        with connect(small) as client, contextlib.suppress(ConnectionError):
            while time.monotonic() < deadline:
                client.sendall(b"\x00" * 1000)
            return False
        return True

    with ThreadPoolExecutor(5) as pool:
        assert all(cut.result() for cut in [pool.submit(is_cut_off) for _ in range(5)])
    eventually(lambda: files(small) == before, "their sockets are closed")


def test_connections_that_end_are_connections(small: Server) -> None:
    """A client cannot have more of them than the limit by breaking them."""

    def is_refused() -> bool:
        with contextlib.ExitStack() as crowd:
            clients = [crowd.enter_context(connect(small)) for _ in range(LIMIT)]
            for client in clients:
                client.sendall(b"\x00\r\n\r\n")
            for client in clients:
                assert error_in(rest(client))["code"] is None
            return get(small, "/v1/models").status_code == 503

    # Perhaps not at once: each of them is there for a second only.
    eventually(is_refused, "too many")
    eventually(lambda: get(small, "/v1/models").status_code == 200, "room again")


def test_connections_that_end_do_not_keep_the_server(start: Callable[..., Server]) -> None:
    server = start("--drain-delay", "0").wait_ready()
    with contextlib.ExitStack() as crowd:
        clients = [crowd.enter_context(connect(server)) for _ in range(5)]
        for client in clients:
            client.sendall(b"\x00\r\n\r\n")
            error_in(rest(client))
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
    server.close()  # so that all of its log is there
    assert not [line for line in server.logs if line["level"] in ("error", "critical")]


def test_a_head_is_not_waited_for_longer_than_ten_seconds(small: Server) -> None:
    """All at once: silence, half a head, one byte after the other; and a long answer goes on."""

    def answer_to(sent: bytes) -> tuple[bytes, float]:
        begun = time.monotonic()
        with connect(small) as client:
            client.sendall(sent)
            return rest(client), time.monotonic() - begun

    def drip() -> float:
        """How long a client can go on with the same head."""
        begun = time.monotonic()
        with connect(small) as client, contextlib.suppress(OSError):
            client.sendall(b"GET /livez HTTP/1.1\r\n")
            while time.monotonic() < begun + 25:
                client.sendall(b"X: y\r\n")
                time.sleep(0.2)
        return time.monotonic() - begun

    def still_sending() -> bytes:
        with connect(small) as client:
            client.sendall(b"GET /livez HTTP/1.1\r\nX-")
            select.select([client], [], [], 30)
            for _ in range(3):
                client.sendall(b"more of it")
                time.sleep(0.05)  # in which a reset would come
            return rest(client)

    def long_answer() -> int:
        body = {"model": "abc", "prompt": "a", "max_tokens": 230, "ignore_eos": True}
        answer = httpx.post(small.url + "/v1/completions", json=body, timeout=60)
        return int(answer.json()["usage"]["completion_tokens"])

    with ThreadPoolExecutor(5) as pool:
        whole = pool.submit(long_answer)
        silent = pool.submit(answer_to, b"")
        half = pool.submit(answer_to, b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-")
        dripping = pool.submit(drip)
        late = pool.submit(still_sending)
        for answer, seconds in (silent.result(), half.result()):
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert seconds > 9
            assert error_in(answer)["code"] == "request_timeout"
        assert error_in(late.result())["code"] == "request_timeout"
        assert 9 < dripping.result() < 25
        assert whole.result() == 230, "which takes longer than that"
