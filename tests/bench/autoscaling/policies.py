"""The policies that are compared, each with the default it is documented with."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from pagoda.autoscaling.capacity import LearnedCapacity, saturated_rate
from pagoda.autoscaling.law import (
    BACKLOG_TARGET_SECONDS,
    DEFAULT,
    KV_CACHE_TARGET,
    WAITING_TARGET,
    Constants,
    Signals,
    Target,
    measure,
)
from pagoda.autoscaling.samples import PodState

from tests.bench.autoscaling.hpa import Hpa, Metric, ObjectMetric, PodsMetric, Tolerance
from tests.bench.autoscaling.world import MAX_REPLICAS, MIN_REPLICAS, World

SYNC_SECONDS = 15.0
EXACT = Tolerance(0.0, 0.0)


def _ask(hpa: Hpa, world: World) -> int:
    status = sum(p.gone > world.now for p in world.pods)
    return hpa.sync(world.now, world.spec, status, world.grouped)


@dataclass
class Ours:
    """The demand law with a target that the user gave, or with capacity learned from nothing."""

    target: Target | None
    law: Constants = DEFAULT
    period: float = SYNC_SECONDS
    learned: LearnedCapacity = field(default_factory=LearnedCapacity)
    signals: Signals | None = None
    _hpa: Hpa | None = None

    def __post_init__(self) -> None:
        self._hpa = Hpa([], MIN_REPLICAS, MAX_REPLICAS, EXACT)
        self._learns = self.target is None

    def desired(self, world: World) -> int:
        if self._learns:
            self._learn(world)
        self.signals = measure(
            world.histories,
            now=world.now,
            spec_replicas=world.spec,
            target=self.target,
            previous=self.signals,
            law=self.law,
        )
        self._hpa.metrics = self._metrics(self.signals)
        return _ask(self._hpa, world)

    def _metrics(self, signals: Signals) -> list[Metric]:
        kv = ObjectMetric(KV_CACHE_TARGET, lambda: signals.kv_cache_usage.value)
        if self.target is None:
            return [ObjectMetric(WAITING_TARGET, lambda: signals.requests_waiting.value), kv]
        demand = ObjectMetric(
            self.target.per_replica, lambda: signals.demand_tokens_per_second.value
        )
        return [
            demand,
            ObjectMetric(BACKLOG_TARGET_SECONDS, lambda: signals.backlog_seconds.value),
            kv,
        ]

    def _learn(self, world: World) -> None:
        rates = {
            p.name: rate
            for p in world.serving
            if (rate := saturated_rate(p.history, world.now, self.law.prompt_weight)) is not None
        }
        if self.learned.observe("r", rates, world.now):
            self.target = Target.of_capacity(self.learned.tokens_per_second)


@dataclass
class HpaOnPods:
    """A plain HPA with one Pods metric, as the API's defaults are."""

    read: Callable[[World], dict[str, float]]
    target: float
    period: float = SYNC_SECONDS
    _world: World | None = None

    def __post_init__(self) -> None:
        metric = PodsMetric(self.target, lambda: self.read(self._world))
        self._hpa = Hpa([metric], MIN_REPLICAS, MAX_REPLICAS)

    def desired(self, world: World) -> int:
        self._world = world
        return _ask(self._hpa, world)


def served_tokens(world: World) -> dict[str, float]:
    """Output-equivalent tokens per second over a minute, as a Prometheus rate()[1m] would be."""
    found = {}
    for pod in world.serving:
        samples = pod.history.samples
        if len(samples) < 2:
            continue
        end = samples[-1].time
        span = min(60.0, end - samples[0].time)
        tokens = pod.history.increase("generation_tokens", end - span, end) or 0.0
        prompts = pod.history.increase("prompt_tokens", end - span, end) or 0.0
        found[pod.name] = (tokens + DEFAULT.prompt_weight * prompts) / span
    return found


def queue_length(world: World) -> dict[str, float]:
    return {
        p.name: p.history.latest("requests_waiting") or 0.0
        for p in world.serving
        if p.history.samples and p.history.state is PodState.SERVING
    }


@dataclass
class ActiveRequests:
    """KubeAI: every 10 s, the mean of the requests in flight over ten minutes / target.

    A fall is applied when it was asked for throughout `scale_down_delay`.
    """

    target: float
    period: float = 10.0
    average_seconds: float = 600.0
    scale_down_delay: float = 30.0
    _seen: deque[float] = field(default_factory=deque)
    _lower_for: float = 0.0

    def desired(self, world: World) -> int:
        now = world.active_requests()
        # KubeAI starts from ten minutes of nothing; a run starts in the middle of a life.
        self._seen.extend([now] * (1 if self._seen else int(self.average_seconds / self.period)))
        while len(self._seen) > self.average_seconds / self.period:
            self._seen.popleft()
        mean = sum(self._seen) / len(self._seen)
        wanted = min(max(-int(-mean // self.target), MIN_REPLICAS), MAX_REPLICAS)
        self._lower_for = self._lower_for + self.period if wanted < world.spec else 0.0
        if wanted < world.spec and self._lower_for < self.scale_down_delay:
            return world.spec
        return wanted
