"""The demand law: from the scrapes of all pods to the numbers an HPA scales on. Pure.

docs/autoscaling.md derives it. In short, over a window:

    arriving = (work done + growth of the work owed + work refused) / window
    demand   = max(arriving, LOAD x (arriving + work waiting / drain time))

Work is in output-equivalent tokens. An HPA with an AverageValue target of LOAD x capacity then asks
for as many replicas as carry the arrivals at 70 % of their capacity, or work off the queue within
the drain time at 100 %, whichever are more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from pagoda.autoscaling.fleet import Fleet, Work
from pagoda.autoscaling.samples import KEEP_SECONDS, STALE_SECONDS, PodHistory

LOAD = 0.7
"""Share of its capacity at which a replica is meant to run."""
WAITING_TARGET = 4.0
"""Waiting requests per replica, the HPA's target while capacity is unknown."""
KV_CACHE_TARGET = 0.8
"""Share of a replica's KV blocks in use, the HPA's target."""
BACKLOG_TARGET_SECONDS = 30.0
"""The HPA's target for `backlog_seconds`."""
JUST_ABOVE = 1.001
"""What makes the HPA's ceil() give one more replica, and cannot be seen in a number of tokens."""


@dataclass(frozen=True)
class Constants:
    """What the law assumes; docs/autoscaling.md says why."""

    window: float = 90.0
    """Seconds over which arrivals are averaged."""
    short_window: float = 15.0
    """Seconds after which a rise may be believed, three scrapes."""
    certainty: float = 2.0
    """By how many standard deviations of its own noise the short window must exceed the long."""
    prompt_weight: float = 0.25
    """V_out/V_in: what a prompt token costs, in generated tokens."""
    drain_seconds: float = 30.0
    """Within what time a queue is to be worked off, unless replicas take longer to start."""
    rise: float = 0.1
    """Demand beyond the present replicas by at most this share changes nothing."""
    fall: float = 0.05
    """Fewer replicas must fit the demand with this share to spare."""
    stale_seconds: float = STALE_SECONDS
    """Seconds of silence after which a pod that serves is blind."""

    def __post_init__(self) -> None:
        # What a window begins with must still be kept after as many missed scrapes as are borne.
        longest = KEEP_SECONDS - self.stale_seconds
        if not 0 < self.short_window <= self.window <= longest:
            raise ValueError(
                f"windows of {self.short_window:g} s and {self.window:g} s: the short one must be "
                f"above 0 and the long one from there to {longest:g} s, as {KEEP_SECONDS:g} s are "
                f"kept and pods may be silent for {self.stale_seconds:g} s"
            )


DEFAULT = Constants()


@dataclass(frozen=True)
class Target:
    """What one replica can do and is meant to do, in output-equivalent tokens per second."""

    capacity: float
    per_replica: float

    @classmethod
    def of_capacity(cls, capacity: float) -> "Target":
        """Give the target for a learned capacity."""
        return cls(capacity, LOAD * capacity)

    @classmethod
    def given(cls, per_replica: float) -> "Target":
        """Give the capacity that the user's target implies."""
        return cls(per_replica / LOAD, per_replica)


@dataclass(frozen=True)
class Signal:
    """One published number."""

    value: float | None
    """None is unknown: the HPA must get an error for it and never a zero."""
    reason: str = ""
    """Why it is unknown, or what it lacks, or what changed it."""


@dataclass(frozen=True)
class Signals:
    """What is published for one LLMDeployment, each summed over its pods."""

    demand_tokens_per_second: Signal
    served_tokens_per_second: Signal
    backlog_seconds: Signal
    """Seconds that one replica would work on what waits and the replicas ordered will not have
    done within the drain time."""
    kv_cache_usage: Signal
    """Sum of the pods' shares: 1.6 may be two pods at 80 %."""
    requests_waiting: Signal
    requests_running: Signal


def measure(
    pods: Sequence[PodHistory],
    *,
    now: float,
    spec_replicas: int,
    target: Target | None,
    previous: Signals | None = None,
    law: Constants = DEFAULT,
) -> Signals:
    """Apply the law.

    Args:
        pods: all of one LLMDeployment, those deleted within the last window included.
        now: on the samples' clock.
        spec_replicas: the workload's spec.replicas. Those that do not serve yet are starting.
        target: given or learned; None while capacity is unknown.
        previous: what was published last. With a blind pod nothing falls below it.
        law: the constants.
    """
    fleet = Fleet(pods, now, law.prompt_weight)
    why = _blindness(fleet, law)
    if why:
        return Signals(*[Signal(None, why) for _ in fields(Signals)])
    demand, served, backlog = _in_tokens(fleet, spec_replicas, target, law)
    signals = Signals(
        demand_tokens_per_second=demand,
        served_tokens_per_second=served,
        backlog_seconds=backlog,
        kv_cache_usage=_told(fleet.total("kv_cache_usage"), "KVCacheUsageNotReported"),
        requests_waiting=_waiting(fleet, spec_replicas, target),
        requests_running=_told(fleet.total("requests_running"), "RunningNotReported"),
    )
    return _held(signals, previous) if fleet.blind else signals


def _blindness(fleet: Fleet, law: Constants) -> str:
    if not fleet.serving:
        return "NoServingPods"
    if len(fleet.blind) == len(fleet.serving):
        return "NoFreshSamples"
    return "WindowTooShort" if fleet.span < law.short_window else ""


def _in_tokens(
    fleet: Fleet, spec_replicas: int, target: Target | None, law: Constants
) -> tuple[Signal, Signal, Signal]:
    """Give demand, what is served, and the backlog in seconds."""
    work = fleet.work(min(fleet.span, law.window))
    short = fleet.work(law.short_window)
    if work is None or short is None:
        unknown = Signal(None, "TokensNotReported")
        return unknown, unknown, unknown
    served = Signal(work.served / work.span)
    size = fleet.request_tokens or _size_without_counting(fleet, work)
    waiting = fleet.total("requests_waiting")
    if waiting is None or size is None:
        # What is done is a lower bound of what is wanted: good enough to grow, not to shrink, on.
        why = "WaitingNotReported" if waiting is None else "RequestSizeUnknown"
        value = _steadied(work.served / work.span, spec_replicas, target, law)
        return Signal(value, why), served, Signal(None, why)
    arriving = max(_arriving(work, size), _certainly_arriving(short, size, law))
    drain = max(law.drain_seconds, fleet.start_seconds)
    load = target.per_replica / target.capacity if target else LOAD
    need = max(arriving, load * (arriving + waiting * size / drain))
    demand = Signal(_steadied(need, spec_replicas, target, law))
    if target is None:
        return demand, served, Signal(None, "CapacityUnknown")
    spare = max(spec_replicas * target.capacity - arriving, 0.0)
    beyond = max(waiting * size - spare * drain, 0.0)
    return demand, served, Signal(beyond / target.capacity)


def _arriving(work: Work, size: float) -> float:
    """Conserve work: what came in is what was done and what is owed more than before.

    A running request is half done in the mean.
    """
    owed = work.more_waiting + work.more_running / 2 + work.shed
    return max(work.served + owed * size, 0.0) / work.span


def _certainly_arriving(work: Work, size: float, law: Constants) -> float:
    """Give the arrivals less what chance may have added: a Poisson count N varies by its root."""
    noise = math.sqrt(work.accepted + work.shed) * size / work.span
    return _arriving(work, size) - law.certainty * noise


def _size_without_counting(fleet: Fleet, work: Work) -> float | None:
    """Guess the size of a request where none is counted: as one that runs gets done in a window.

    Where none runs or waits it does not matter: an idle replica is known to be idle.
    """
    running, waiting = fleet.total("requests_running"), fleet.total("requests_waiting")
    if running:
        return work.served / running
    return 0.0 if running == waiting == 0 else None


def _steadied(need: float, spec_replicas: int, target: Target | None, law: Constants) -> float:
    """Move a demand that is near a change of the count to this side of it.

    The HPA makes ceil(value / target) of it. Rises within `rise` of the present count, and falls
    that would leave less than `fall` to spare, keep the count.
    """
    if target is None or spec_replicas < 1:
        return need
    replicas = need / target.per_replica
    if spec_replicas < replicas <= spec_replicas * (1 + law.rise):
        return spec_replicas * target.per_replica
    roomy = min(math.ceil(replicas / (1 - law.fall)), spec_replicas)
    return max(need, (roomy - 1) * target.per_replica * JUST_ABOVE)


def _waiting(fleet: Fleet, spec_replicas: int, target: Target | None) -> Signal:
    """Give the queue; while capacity is unknown and the HPA scales on it, within two bounds.

    While replicas start it is no more than keeps their count: what they will work off cannot be
    said. And it is no less than keeps the replicas that have shown to be needed: an empty queue says
    that they are enough, not that fewer would be. Fewer are if none would have more to do than the
    busiest has now.
    """
    waiting = fleet.total("requests_waiting")
    if waiting is None or target is not None:
        return _told(waiting, "WaitingNotReported")
    most = WAITING_TARGET * spec_replicas
    if waiting > most and fleet.starting(spec_replicas):
        return Signal(most, "ReplicasStarting")
    needed = min(fleet.in_busiest, spec_replicas)
    least = WAITING_TARGET * (needed - 1) * JUST_ABOVE
    if needed > 1 and waiting < least:
        return Signal(least, "CapacityUnknown")
    return Signal(waiting)


def _told(value: float | None, otherwise: str) -> Signal:
    return Signal(value, "" if value is not None else otherwise)


def _held(signals: Signals, previous: Signals | None) -> Signals:
    """Let nothing fall below what was published before."""

    def held(name: str) -> Signal:
        new: Signal = getattr(signals, name)
        old: Signal | None = getattr(previous, name) if previous else None
        if old is None or old.value is None or new.value is None or new.value >= old.value:
            return replace(new, reason=new.reason or "PodsBlind")
        return Signal(old.value, "PodsBlind")

    return Signals(**{f.name: held(f.name) for f in fields(Signals)})
