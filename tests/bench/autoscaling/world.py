"""One run: requests, replicas that start and leave, scrapes, and an autoscaler."""

import heapq
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pagoda.autoscaling.samples import PodHistory, PodState

from tests.bench.autoscaling.engine import Model, Replica, Request
from tests.bench.autoscaling.hpa import Pods

SCRAPE_SECONDS = 5.0
RETRY_AFTER = 2.0
MAX_TRIES = 4
DRAIN_SECONDS = 60.0
MIN_REPLICAS, MAX_REPLICAS = 1, 12


@dataclass
class Pod:
    """A replica in the cluster, and what the scraper knows of it."""

    name: str
    created: float
    ready: float
    history: PodHistory
    engine: Replica | None = None  # from readiness on
    leaving: float = math.inf
    gone: float = math.inf


class Autoscaler(Protocol):
    """Decides the count. `period` is between its calls."""

    period: float

    def desired(self, world: "World") -> int: ...


@dataclass
class World:
    model: Model
    requests: Sequence[Request]
    duration: float
    start_delay: float
    initial: int
    seed: int
    now: float = 0.0
    spec: int = 0
    pods: list[Pod] = field(default_factory=list)
    past: list[Pod] = field(default_factory=list)
    refused: int = 0
    counts: list[tuple[float, int, int]] = field(default_factory=list)  # time, spec, serving

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.spec = self.initial
        for _ in range(self.initial):
            self._create(ready=0.0)
        self._ready_pods()

    def _create(self, ready: float) -> None:
        number = len(self.pods) + len(self.past)
        history = PodHistory(created=self.now if ready > 0 else -self.start_delay)
        self.pods.append(Pod(f"pod-{number}", self.now, ready, history))

    @property
    def serving(self) -> list[Pod]:
        return [p for p in self.pods if p.engine and p.leaving == math.inf]

    @property
    def histories(self) -> list[PodHistory]:
        recent = [p.history for p in self.past if p.gone > self.now - 60]
        return [p.history for p in self.pods] + recent

    @property
    def grouped(self) -> Pods:
        """The pods as the HPA controller groups them. A container that loads its model runs."""
        here = [p for p in self.pods if p.leaving == math.inf]
        return Pods(frozenset(p.name for p in here))

    def active_requests(self) -> int:
        """What a proxy in front has in flight."""
        return sum(
            len(p.engine.waiting) + p.engine.running for p in self.pods if p.engine is not None
        )

    def run(self, scaler: Autoscaler) -> "Result":
        incoming, next_request = self.requests, 0
        retries: list[tuple[float, int, Request]] = []
        scrape, sync = 0.0, self.random.uniform(0, scaler.period)
        while self.now < self.duration:
            arrival = incoming[next_request].arrival if next_request < len(incoming) else math.inf
            retry = retries[0][0] if retries else math.inf
            self.now = min(arrival, retry, scrape, sync, self.duration)
            self._ready_pods()
            if self.now == arrival:
                self._send(incoming[next_request], retries)
                next_request += 1
            elif self.now == retry:
                self._send(heapq.heappop(retries)[2], retries)
            elif self.now == scrape:
                self._scrape()
                scrape += SCRAPE_SECONDS
            elif self.now == sync:
                self._scale(scaler.desired(self))
                sync += scaler.period
        return self._result()

    def _send(self, request: Request, retries: list[tuple[float, int, Request]]) -> None:
        request.tries += 1
        serving = self.serving
        # A Service picks by chance.
        pod = serving[int(self.random.random() * len(serving))] if serving else None
        if pod and pod.engine and pod.engine.offer(request, self.now):
            return
        if request.tries >= MAX_TRIES:
            self.refused += 1
            return
        again = self.now + RETRY_AFTER * self.random.uniform(1.0, 1.5)
        heapq.heappush(retries, (again, id(request), request))

    def _ready_pods(self) -> None:
        for pod in self.pods:
            if pod.engine is None and pod.ready <= self.now:
                pod.engine = Replica(self.model, pod.ready)
                pod.history.become(PodState.SERVING, pod.ready)

    def _scrape(self) -> None:
        for pod in list(self.pods):
            if pod.engine is None:
                continue
            pod.history.add(pod.engine.scrape(self.now))
            over = pod.engine.is_idle or self.now - pod.leaving > DRAIN_SECONDS
            if pod.leaving < math.inf and over:
                self._remove(pod)
        self.counts.append((self.now, self.spec, len(self.serving)))

    def _remove(self, pod: Pod) -> None:
        pod.gone = self.now
        pod.history.become(PodState.GONE, self.now)
        self.pods.remove(pod)
        self.past.append(pod)

    def _scale(self, desired: int) -> None:
        self.spec = desired
        here = [p for p in self.pods if p.leaving == math.inf]
        for _ in range(desired - len(here)):
            delay = self.start_delay * self.random.uniform(0.9, 1.1)
            self._create(ready=self.now + delay)
        if desired < len(here):
            # As a ReplicaSet: those that are not ready first, then the youngest.
            here.sort(key=lambda p: (p.engine is not None, -p.created))
            for pod in here[: len(here) - desired]:
                pod.leaving = self.now
                if pod.engine is None:
                    self._remove(pod)
                else:
                    pod.history.become(PodState.LEAVING, self.now)

    def _result(self) -> "Result":
        for pod in self.pods:
            if pod.engine:
                pod.engine.advance(self.duration)
        cost = sum(min(p.gone, self.duration) - p.created for p in [*self.pods, *self.past])
        return Result(self.requests, self.duration, cost, self.refused, self.counts)


@dataclass
class Result:
    requests: Sequence[Request]
    duration: float
    replica_seconds: float
    refused: int
    counts: list[tuple[float, int, int]]

    def attainment(self, ttft: float, tpot: float) -> float:
        """Give the share of requests that got both; what was refused for good got neither.

        Those that came too late in the run to be judged are left out.
        """
        judged = [r for r in self.requests if r.arrival < self.duration - 60]
        good = sum(r.ttft <= ttft and r.tpot <= tpot for r in judged)
        return good / len(judged)

    @property
    def changes(self) -> int:
        """How often the count turned round: a rise after a fall or a fall after a rise."""
        specs = [spec for _, spec, _ in self.counts]
        moves = [b - a for a, b in itertools.pairwise(specs) if b != a]
        return sum((a > 0) != (b > 0) for a, b in itertools.pairwise(moves))
