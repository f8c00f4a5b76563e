"""The engines of one LLMDeployment under an open-loop load, in real time.

Nothing runs between two scrapes: what has happened since the last one is worked out when somebody
asks. So a hundred engines cost next to nothing.
"""

import heapq
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tests.fake_engine import FakeEngine


@dataclass(frozen=True)
class Machine:
    """What one replica can do.

    Our runtime is such a machine with `--max-num-seqs`, `--min-step-ms` and
    `--max-num-queued-reqs`: a request goes on at its pace however many run beside it.
    """

    seats: int
    """Requests that run at a time."""
    seat_rate: float
    """Tokens per second of a request that runs."""
    queue: int
    """Requests that may wait; more are refused."""

    @property
    def capacity(self) -> float:
        """Tokens per second with all seats taken."""
        return self.seats * self.seat_rate


class LoadedEngine(FakeEngine):
    """An engine whose page tells of the requests that it was sent."""

    def __init__(self, machine: Machine, catch_up: Callable[[float], None]) -> None:
        """Prepare an idle one.

        Args:
            machine: what it can do.
            catch_up: called with the time before a page is made; lets all requests arrive that
                were sent until then.
        """
        super().__init__()
        self._machine = machine
        self._catch_up = catch_up
        self._running: list[tuple[float, float]] = []  # by when they end; and their tokens
        self._waiting: deque[float] = deque()
        self._done = 0.0  # tokens of requests that have ended

    def move(self, now: float) -> None:
        self._catch_up(now)

    def arrive(self, at: float, tokens: float) -> None:
        """Take a request, or refuse it."""
        self.work_until(at)
        if len(self._running) < self._machine.seats:
            self._begin(at, tokens)
        elif len(self._waiting) < self._machine.queue:
            self._waiting.append(tokens)
        else:
            self.rejected += 1

    def work_until(self, at: float) -> None:
        """Do the work up to a time that is not before the last one."""
        while self._running and self._running[0][0] <= at:
            end, tokens = heapq.heappop(self._running)
            self._done += tokens
            self.finished += 1
            if self._waiting:
                self._begin(end, self._waiting.popleft())
        rate = self._machine.seat_rate
        under_way = sum(tokens - (end - at) * rate for end, tokens in self._running)
        # Rounding must not let a counter fall: that would be a restart.
        self.generated = max(self.generated, self._done + under_way)
        self.running, self.waiting = float(len(self._running)), float(len(self._waiting))
        self.kv_cache_usage = 0.5 * self.running / self._machine.seats

    def _begin(self, at: float, tokens: float) -> None:
        heapq.heappush(self._running, (at + tokens / self._machine.seat_rate, tokens))


class Fleet:
    """Requests that come by chance, however fast they are answered, each to one replica by chance."""

    def __init__(self, machine: Machine, *, rate: float, tokens: float, seed: int) -> None:
        """Prepare.

        Args:
            machine: what each replica can do.
            rate: load in tokens per second.
            tokens: of each request.
            seed: of what chance does.
        """
        self.machine = machine
        self._tokens = tokens
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        self._engines: dict[str, LoadedEngine] = {}  # by pod
        self._serving: list[LoadedEngine] = []
        self._rate = rate
        self._next = self._after(time.monotonic())

    @property
    def engines(self) -> list[LoadedEngine]:
        return list(self._engines.values())

    def load(self, rate: float) -> None:
        """Let another load come from now on, in tokens per second."""
        now = time.monotonic()
        self._catch_up(now)
        with self._lock:
            self._rate = rate
            self._next = self._after(now)

    def silence(self, silent: bool, *, most: int | None = None) -> None:
        """Have the engines, or so many of them, answer scrapes no more, or again."""
        for engine in self.engines[:most]:
            engine.silent = silent

    def add(self, pod: str) -> str:
        """Start the engine of a pod, to which nothing is sent yet; its address."""
        engine = LoadedEngine(self.machine, self._catch_up)
        engine.__enter__()
        with self._lock:
            self._engines[pod] = engine
        return engine.address

    def serve(self, pod: str) -> None:
        """Send requests to a pod from now on."""
        self._change(pod, serves=True)

    def leave(self, pod: str) -> None:
        """Send a pod no more requests; it works off those that it has."""
        self._change(pod, serves=False)

    def remove(self, pod: str) -> None:
        """End a pod's engine, with all requests that it still has."""
        self._change(pod, serves=False)
        with self._lock:
            engine = self._engines.pop(pod)
        engine.__exit__(None, None, None)

    def close(self) -> None:
        """End all engines."""
        for pod in list(self._engines):
            self.remove(pod)

    def _change(self, pod: str, *, serves: bool) -> None:
        self._catch_up(time.monotonic())
        with self._lock:
            engine = self._engines[pod]
            if serves and engine not in self._serving:
                self._serving.append(engine)
            elif not serves and engine in self._serving:
                self._serving.remove(engine)

    def _catch_up(self, now: float) -> None:
        with self._lock:
            while self._next <= now:
                if self._serving:
                    self._dice.choice(self._serving).arrive(self._next, self._tokens)
                self._next += self._gap()
            for engine in self._engines.values():
                engine.work_until(now)

    def _after(self, now: float) -> float:
        return now + self._gap()

    def _gap(self) -> float:
        return self._dice.expovariate(self._rate / self._tokens) if self._rate else math.inf
