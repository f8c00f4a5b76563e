"""An engine as the metrics server sees it: a page of metrics on one loopback address, port 8000."""

import asyncio
import functools
import itertools
import os
import threading
import time
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

from pagoda.engines.base import PORT

T = TypeVar("T")
_hosts = itertools.count(1)


def address() -> str:
    """A loopback address of this process's own, never given before."""
    pid, number = os.getpid(), next(_hosts)
    return f"127.{100 + pid % 100}.{pid // 100 % 250}.{number}"


class FakeEngine:
    """Answers every request with its page, in vLLM's words.

    Its counters move by themselves at the rates that are set; gauges stand where they are put.
    A silent one takes connections and says nothing.
    """

    def __init__(self) -> None:
        self.address = address()
        self.generation_rate = 0.0  # tokens per second
        self.waiting = 0.0
        self.running = 0.0
        self.kv_cache_usage = 0.0
        self.status = 200
        self.silent = False
        self.asked = 0
        self.generated = 0.0
        self.finished = 0.0
        self.rejected = 0.0
        self._moved_at = time.monotonic()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Transport] = set()

    def restart(self) -> None:
        """Begin to count from zero again, as a crashed engine does."""
        self.page()
        self.generated = self.finished = 0.0

    def move(self, now: float) -> None:
        """Bring the counters up to a time."""
        tokens = (now - self._moved_at) * self.generation_rate
        self._moved_at = now
        self.generated += tokens
        self.finished += tokens / 100

    def page(self) -> str:
        self.move(time.monotonic())
        model = 'engine="0",model_name="a \\"quoted\\" {name}"'
        refused = f"vllm:admission_rejections_total{{{model}}} {self.rejected}\n"
        return f"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{{model}}} {self.running}
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{{model}}} {self.waiting}
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{{{model},reason="capacity"}} 1000.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{{model}}} {self.kv_cache_usage}
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{{{model}}} 0.0
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{{model}}} {self.generated}
# TYPE vllm:generation_tokens_created gauge
vllm:generation_tokens_created{{{model}}} 1.7e+09
# TYPE vllm:request_success_total counter
vllm:request_success_total{{{model},finished_reason="stop"}} {self.finished}
vllm:request_success_total{{{model},finished_reason="length"}} 0.0
# TYPE vllm:admission_rejections_total counter
{refused if self.rejected else ""}"""

    def __enter__(self) -> "FakeEngine":
        _do(self._open())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _do(self._close())

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), self.address, PORT)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            connection.abort()


class _Connection(asyncio.Protocol):
    """Takes whatever comes for a GET."""

    def __init__(self, engine: FakeEngine):
        self._engine = engine

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._engine._connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._engine._connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        engine = self._engine
        engine.asked += 1
        if engine.silent:
            self._transport.abort()
            return
        body = engine.page().encode()
        head = [
            f"HTTP/1.1 {engine.status} Whatever",
            "Content-Type: text/plain; version=0.0.4",
            f"Content-Length: {len(body)}",
        ]
        if engine.status == 302:
            head.append("Location: http://127.0.0.1:1/")
        self._transport.write("\r\n".join([*head, "", ""]).encode() + body)


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """One thread answers for all engines of this process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


def _do(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, _loop()).result()
