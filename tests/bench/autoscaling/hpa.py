"""The HPA controller's arithmetic, written from what kube-controller-manager 1.36 does.

`pkg/controller/podautoscaler/replica_calculator.go` and `horizontal.go` are the source of the rules;
tests/unit/control/autoscaling/test_hpa.py works out cases of each by hand.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

MILLI = 1000


@dataclass(frozen=True)
class Pods:
    """The pods of the scale target, as the controller groups them."""

    running: frozenset[str]  # phase Running, ready or not, not being deleted
    pending: frozenset[str] = frozenset()

    @property
    def count(self) -> int:
        return len(self.running) + len(self.pending)


@dataclass(frozen=True)
class Tolerance:
    up: float = 0.1
    down: float = 0.1

    def holds(self, ratio: float) -> bool:
        return 1 - self.down <= ratio <= 1 + self.up


@dataclass(frozen=True)
class ObjectMetric:
    """An Object metric with an AverageValue target. `read` gives None where the API gives an error."""

    target: float
    read: Callable[[], float | None]

    def replicas(self, spec: int, status: int, pods: Pods, tolerance: Tolerance) -> int | None:
        value = self.read()
        if value is None:
            return None
        usage, target = round(value * MILLI), round(self.target * MILLI)
        if status and tolerance.holds(usage / (target * status)):
            return status
        return math.ceil(usage / target)


@dataclass(frozen=True)
class PodsMetric:
    """A Pods metric with an AverageValue target. Pods that `read` leaves out have no metric."""

    target: float
    read: Callable[[], Mapping[str, float]]

    def replicas(self, spec: int, status: int, pods: Pods, tolerance: Tolerance) -> int | None:
        metrics = {p: v for p, v in self.read().items() if p in pods.running}
        if not metrics:
            return None
        missing = pods.running - metrics.keys()
        ratio = self._ratio(metrics)
        counts_pending = bool(pods.pending) and ratio > 1
        if not counts_pending and not missing:
            return spec if tolerance.holds(ratio) else math.ceil(ratio * len(metrics))
        if ratio != 1:
            metrics |= dict.fromkeys(missing, self.target if ratio < 1 else 0.0)
        if counts_pending:
            metrics |= dict.fromkeys(pods.pending, 0.0)
        again = self._ratio(metrics)
        if tolerance.holds(again) or (ratio < 1 < again) or (again < 1 < ratio):
            return spec
        wanted = math.ceil(again * len(metrics))
        turns = (again < 1 and wanted > spec) or (again > 1 and wanted < spec)
        return spec if turns else wanted

    def _ratio(self, metrics: Mapping[str, float]) -> float:
        return sum(metrics.values()) / len(metrics) / self.target


Metric = ObjectMetric | PodsMetric


@dataclass(frozen=True)
class Policy:
    type: Literal["Pods", "Percent"]
    value: int
    period: float


@dataclass(frozen=True)
class Rules:
    policies: tuple[Policy, ...]
    window: float
    select: Literal["Max", "Min", "Disabled"] = "Max"


@dataclass(frozen=True)
class Behavior:
    """`spec.behavior`; what is left out has the API's defaults."""

    up: Rules = Rules((Policy("Pods", 4, 15), Policy("Percent", 100, 15)), 0)
    down: Rules = Rules((Policy("Percent", 100, 15),), 300)


@dataclass
class Hpa:
    """One HPA: `sync` is what the controller does with it every 15 s."""

    metrics: Sequence[Metric]
    minimum: int
    maximum: int
    tolerance: Tolerance = Tolerance()
    behavior: Behavior = Behavior()
    _recommended: list[tuple[float, int]] = field(default_factory=list)
    _ups: list[tuple[float, int]] = field(default_factory=list)
    _downs: list[tuple[float, int]] = field(default_factory=list)

    def sync(self, now: float, spec: int, status: int, pods: Pods) -> int:
        """Give the new spec.replicas."""
        if spec == 0:
            return 0  # autoscaling is off
        if not self._recommended:
            self._recommended.append((now, spec))
        if spec > self.maximum or spec < self.minimum:
            return self._apply(now, spec, min(max(spec, self.minimum), self.maximum))
        wanted = self._wanted(spec, status, pods)
        if wanted is None:
            return spec
        return self._apply(now, spec, self._limited(now, spec, self._stabilized(now, spec, wanted)))

    def _wanted(self, spec: int, status: int, pods: Pods) -> int | None:
        proposals = [m.replicas(spec, status, pods, self.tolerance) for m in self.metrics]
        valid = [p for p in proposals if p is not None]
        if not valid or (len(valid) < len(proposals) and max(valid) < spec):
            return None
        return max(valid)

    def _stabilized(self, now: float, spec: int, wanted: int) -> int:
        up, down = self.behavior.up.window, self.behavior.down.window
        least = min([wanted, *(n for t, n in self._recommended if t > now - up)])
        most = max([wanted, *(n for t, n in self._recommended if t > now - down)])
        self._recommended = [(t, n) for t, n in self._recommended if t > now - max(up, down)]
        self._recommended.append((now, wanted))
        return min(max(spec, least), most)

    def _limited(self, now: float, spec: int, wanted: int) -> int:
        if wanted > spec:
            limit = max(self._limit(self.behavior.up, now, spec, +1), spec)
            return min(wanted, limit, self.maximum)
        if wanted < spec:
            limit = min(self._limit(self.behavior.down, now, spec, -1), spec)
            return max(wanted, limit, self.minimum)
        return wanted

    def _limit(self, rules: Rules, now: float, spec: int, sign: Literal[1, -1]) -> int:
        if rules.select == "Disabled":
            return spec
        limits = []
        for policy in rules.policies:
            start = spec - _changes(self._ups, policy, now) + _changes(self._downs, policy, now)
            if policy.type == "Pods":
                limits.append(start + sign * policy.value)
            else:
                share = start * (1 + sign * policy.value / 100)
                limits.append(math.ceil(share) if sign > 0 else int(share))
        widest = max if (sign > 0) == (rules.select == "Max") else min
        return widest(limits)

    def _apply(self, now: float, spec: int, new: int) -> int:
        if new != spec:
            (self._ups if new > spec else self._downs).append((now, abs(new - spec)))
        return new


def _changes(events: Sequence[tuple[float, int]], policy: Policy, now: float) -> int:
    return sum(n for t, n in events if t > now - policy.period)
