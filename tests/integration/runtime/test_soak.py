"""Half an hour (PAGODA_SOAK_SECONDS) of everything at once: joins, aborts, overload, slow clients,
wrong requests, and beside it replicas that are drained. `make soak`.
"""

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.runtime.conftest import Server, alive, eventually

SECONDS = float(os.environ.get("PAGODA_SOAK_SECONDS", "1800"))
CLIENTS = 12  # three times the seats, so that the queue is full now and then
FLAGS = ("--dtype", "bfloat16", "--min-step-ms", "5", "--max-num-seqs", "4", "--block-size", "16")
FLAGS += ("--max-num-queued-reqs", "4", "--max-model-len", "400", "--shutdown-timeout", "120")
FLAGS += ("--kv-cache-memory-bytes", str(60 * 16 * 512), "--drain-delay", "0.2")
# What processes may grow by after the first quarter, in bytes: allocators' moods, not a leak.
GROWTH = 24 << 20


class Clients:
    """Threads that each do one random thing after the other until they are stopped."""

    def __init__(self, server: Server, seed: int) -> None:
        self.wrong: list[str] = []
        self.done: Counter[str] = Counter()
        self._url = server.url + "/v1/completions"
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._go_on, args=(random.Random(seed + n),))
            for n in range(CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _go_on(self, dice: random.Random) -> None:
        ways = (
            self._whole,
            self._streamed,
            self._abandoned,
            self._impatient,
            self._slow,
            self._bad,
        )
        while not self._stop.is_set():
            way = dice.choice(ways)
            try:
                with httpx.Client(timeout=60) as client:
                    way(client, dice)
            except Exception as error:
                self.wrong.append(f"{way.__name__}: {error!r}")
            self.done[way.__name__] += 1

    def _body(self, dice: random.Random, **fields: object) -> dict[str, object]:
        # Few different beginnings, so that some are in the prefix cache.
        prompt = dice.choice(("abc", "xyz", "?")) * dice.randint(1, 60)
        length = dice.choice((1, 5, 50, 200))
        body = {"model": "abc", "prompt": prompt, "max_tokens": length, "ignore_eos": True}
        return body | fields

    def _whole(self, client: httpx.Client, dice: random.Random) -> None:
        body = self._body(dice)
        answer = client.post(self._url, json=body)
        if answer.status_code == 429:
            assert answer.headers["retry-after"]
            return
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == body["max_tokens"]

    def _streamed(self, client: httpx.Client, dice: random.Random, pause: float = 0.0) -> None:
        with client.stream("POST", self._url, json=self._body(dice, stream=True)) as answer:
            if answer.status_code == 429:
                return
            assert answer.status_code == 200
            last = ""
            for line in answer.iter_lines():
                last = line or last
                time.sleep(pause)
        if last != "data: [DONE]":
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "queue_full"

    def _slow(self, client: httpx.Client, dice: random.Random) -> None:
        self._streamed(client, dice, pause=0.02)

    def _abandoned(self, client: httpx.Client, dice: random.Random) -> None:
        with client.stream("POST", self._url, json=self._body(dice, stream=True)) as answer:
            lines = answer.iter_lines()
            for _ in range(dice.randint(0, 20)):
                next(lines, None)

    def _impatient(self, client: httpx.Client, dice: random.Random) -> None:
        with contextlib.suppress(httpx.TimeoutException):
            client.post(self._url, json=self._body(dice), timeout=dice.uniform(0.01, 0.3))

    def _bad(self, client: httpx.Client, dice: random.Random) -> None:
        wrong = dice.choice(
            ({"max_tokens": -1}, {"model": "no"}, {"prompt": "a" * 900}, {"n": "x"})
        )
        answer = client.post(self._url, json=self._body(dice, **wrong))
        assert 400 <= answer.status_code < 500, answer.text


def resident(pid: int) -> int:
    """Bytes of memory that a process has for itself."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")


def sizes(server: Server) -> dict[str, int]:
    return {"api": resident(server.process.pid), "engine": resident(server.engine_pid)}


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 300)
def test_nothing_leaks_and_nobody_is_wronged(start: Callable[..., Server]) -> None:
    server = start(*FLAGS).wait_ready()
    clients = Clients(server, seed=1)
    begun = time.monotonic()
    early: dict[str, int] = {}
    drains, passed = 0, 0.0
    try:
        while passed < SECONDS:
            drained_under_load(start(*FLAGS))
            drains += 1
            assert server.get("/livez").status_code == server.get("/readyz").status_code == 200
            passed = time.monotonic() - begun
            if not early and passed > SECONDS / 4:
                early = sizes(server)
    finally:
        clients.stop()
    assert clients.wrong == []
    eventually(
        lambda: server.metric("kv_blocks_free") == server.metric("kv_blocks_total"), "all blocks"
    )
    assert server.metric("num_requests_running") == server.metric("num_requests_waiting") == 0
    late = sizes(server)
    print(f"{sum(clients.done.values())} requests {dict(clients.done)}, {drains} drains")
    print(f"resident {early} then {late}")
    assert {
        name: late[name] - size for name, size in early.items() if late[name] > size + GROWTH
    } == {}
    assert [line for line in server.logs if line.get("level") == "error"] == []
    families = text_string_to_metric_families(server.get("/metrics").text)
    samples = [s for f in families for s in f.samples if s.name == "pagoda_http_requests_total"]
    statuses = {s.labels["status"] for s in samples if s.labels["handler"] == "/v1/completions"}
    assert {"200", "400", "429"} <= statuses <= {"200", "400", "404", "429", "499"}


def drained_under_load(server: Server) -> None:
    """End a replica that has much to do; whoever it had taken is answered in full."""
    server.wait_ready()
    answers: list[httpx.Response] = []

    def ask() -> None:
        body = {"model": "abc", "prompt": "a", "max_tokens": 60, "ignore_eos": True}
        answers.append(httpx.post(server.url + "/v1/completions", json=body, timeout=60))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()

    def taken() -> float:
        ended = server.metric("request_success_total", finished_reason="length")
        inside = server.metric("num_requests_running") + server.metric("num_requests_waiting")
        return ended + inside

    # Who comes later may be refused. On a busy machine the first may have ended by then.
    eventually(lambda: taken() == len(threads), "all requests taken")
    engine = server.engine_pid
    server.signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert server.wait_exit() == 0
    assert {a.status_code for a in answers} == {200}
    assert {a.json()["choices"][0]["finish_reason"] for a in answers} == {"length"}
    assert not alive(engine)
    server.close()
