"""How a connection ends whose client has more to say."""

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pagoda_runtime.server import linger

BUFFER_BYTES = 1 << 16
MORE = b"x" * (16 * BUFFER_BYTES)
HELD_UP = 0.5


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linger, "LINGER_SECONDS", 0.2)


def connected() -> tuple[socket.socket, socket.socket]:
    """A client and, non-blocking, its server."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
    server.setblocking(False)
    return client, server


async def end_of(server: socket.socket, times: int) -> int:
    """Linger, in a loop that is held up so many times; how many of them it lived to see."""
    ended, seen = asyncio.Event(), 0
    linger.Lingering(server, asyncio.get_running_loop(), ended.set)
    while seen < times and not ended.is_set():
        time.sleep(HELD_UP)  # noqa: ASYNC251
        seen += 1
        for _ in range(3):  # what is due is done
            await asyncio.sleep(0)
    await ended.wait()
    return seen


def test_a_loop_that_was_held_up_listens_first():
    client, server = connected()
    with client, ThreadPoolExecutor(1) as pool:
        server.send(b"the answer")
        ended = pool.submit(asyncio.run, end_of(server, 1))
        client.sendall(MORE)  # more than fits into buffers: the end must be read
        assert client.recv(100) == b"the answer"
        assert client.recv(100) == b"", "and no reset"
        client.close()
        ended.result()


def test_but_not_for_ever():
    client, server = connected()
    with client:
        assert asyncio.run(end_of(server, 10)) == 3
    assert server.fileno() == -1
