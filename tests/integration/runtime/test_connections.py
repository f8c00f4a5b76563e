"""Too many clients, and clients that take for ever to say what they want."""

import contextlib
import socket
import time
from collections.abc import Iterator
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
        answer = begun + b"".join(iter(lambda: client.recv(1000), b""))
        assert b"too_many_connections" in answer
        silent = crowd.enter_context(connect(small))
        silent.sendall(head)
        assert b"503" in b"".join(iter(lambda: silent.recv(1000), b"")), "and is not waited for"


def test_a_head_is_not_waited_for_longer_than_ten_seconds(small: Server) -> None:
    """All at once: silence, half a head, one byte after the other; and a long answer goes on."""

    def answer_to(sent: bytes) -> tuple[bytes, float]:
        with connect(small) as client:
            begun = time.monotonic()
            client.sendall(sent)
            return b"".join(iter(lambda: client.recv(1000), b"")), time.monotonic() - begun

    def drip() -> float:
        """How long a client can go on with the same head."""
        begun = time.monotonic()
        with connect(small) as client, contextlib.suppress(OSError):
            client.sendall(b"GET /livez HTTP/1.1\r\n")
            while time.monotonic() < begun + 25:
                client.sendall(b"X: y\r\n")
                time.sleep(0.2)
        return time.monotonic() - begun

    def long_answer() -> int:
        body = {"model": "abc", "prompt": "a", "max_tokens": 230, "ignore_eos": True}
        answer = httpx.post(small.url + "/v1/completions", json=body, timeout=60)
        return int(answer.json()["usage"]["completion_tokens"])

    with ThreadPoolExecutor(4) as pool:
        whole = pool.submit(long_answer)
        silent = pool.submit(answer_to, b"")
        half = pool.submit(answer_to, b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-")
        dripping = pool.submit(drip)
        for answer, seconds in (silent.result(), half.result()):
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert seconds > 9
        assert 9 < dripping.result() < 25
        assert whole.result() == 230, "which takes longer than that"
