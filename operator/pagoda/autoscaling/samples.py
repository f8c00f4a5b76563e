"""What is known of one engine pod: its scrapes over the last minutes. Pure.

Times are seconds of one monotonic clock. None is "the engine does not tell", never zero.
"""

import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

Counter = Literal["generation_tokens", "prompt_tokens", "requests_finished", "requests_rejected"]
Gauge = Literal["requests_waiting", "requests_running", "kv_cache_usage"]

COUNTERS: tuple[Counter, ...] = (
    "generation_tokens",
    "prompt_tokens",
    "requests_finished",
    "requests_rejected",
)
KEEP_SECONDS = 150.0  # the longest window, its first scrape and some missed ones
STALE_SECONDS = 16.0  # three scrapes of 5 s and their jitter; longer if scrapes are rarer
MEMORY_SECONDS = 300.0  # time constant of the means per request: minutes, as request mixes change


@dataclass(frozen=True, slots=True)
class PodSample:
    """One scrape of one engine pod."""

    time: float
    generation_tokens: float | None = None
    """Counter of tokens generated."""
    prompt_tokens: float | None = None
    """Counter of prompt tokens computed; those found in the prefix cache are left out where the
    engine tells them apart."""
    requests_finished: float | None = None
    """Counter of requests that ended, for whatever reason, after they were accepted."""
    requests_rejected: float | None = None
    """Counter of requests refused for overload (429, 503). A client's retries of one request are
    left out where they can be told apart."""
    requests_waiting: float | None = None
    requests_running: float | None = None
    kv_cache_usage: float | None = None
    """Share of the KV blocks in use, 0 to 1."""


class PodState(StrEnum):
    """Where a pod is in its life."""

    STARTING = "Starting"  # has never been ready: scheduled, pulled, loading
    SERVING = "Serving"  # has been ready; readiness lost later is no way back to STARTING
    LEAVING = "Leaving"  # has a deletion timestamp; it still works off its requests
    GONE = "Gone"  # the object is deleted; what it did in the last window still counts


@dataclass(slots=True)
class Memory:
    """Sums with exponential forgetting, for means over the last minutes."""

    tokens: dict[Counter, float] = field(default_factory=dict)
    finished: float = 0.0
    busy_seconds: float = 0.0  # integral of requests_running


@dataclass(slots=True)
class PodHistory:
    """The samples of one pod, oldest first, and its state.

    The scraper owns it: `add` after each scrape that succeeded, `become` when the pod object
    changes. It keeps a GONE pod for `KEEP_SECONDS` and then forgets it: its gauges no longer count,
    its counters do until they have left the window, or demand would dip with every pod replaced.
    """

    revision: str = ""
    created: float = 0.0
    """When the pod object was created. It may lie before the clock's zero."""
    stale_seconds: float = STALE_SECONDS
    """After how long a silence a pod that serves is blind."""
    counts_at_finish: bool = False
    """Whether the engine counts tokens only when a request ends."""
    state: PodState = PodState.STARTING
    ready_at: float | None = None
    """When it first became ready; None while it starts, or when unknown."""
    start_seconds: float | None = None
    """From creation to the first readiness; None while it starts, or when unknown."""
    samples: deque[PodSample] = field(default_factory=deque)
    """Kept samples. Their counters are made continuous over restarts of the engine."""
    memory: Memory = field(default_factory=Memory)
    _raw: dict[Counter, float] = field(default_factory=dict)  # as last told
    _total: dict[Counter, float] = field(default_factory=dict)  # made continuous

    def become(self, state: PodState, now: float) -> None:
        """Take over a new state; life goes one way, so an older one changes nothing.

        Args:
            state: the new one.
            now: since when; of a pod that was found ready, what its Ready condition says.
        """
        order = list(PodState)
        if order.index(state) <= order.index(self.state):
            return
        if state is PodState.SERVING:
            self.ready_at, self.start_seconds = now, now - self.created
        self.state = state

    def add(self, sample: PodSample) -> None:
        """Append a scrape. One that is not newer than the last is dropped."""
        last = self.samples[-1] if self.samples else None
        if last is not None and sample.time <= last.time:
            return
        whole = self._continued(sample)
        if last is not None:
            self._remember(last, whole)
        self.samples.append(whole)
        # One sample beyond the window stays, so that the window's start can be interpolated.
        while len(self.samples) > 2 and self.samples[1].time <= sample.time - KEEP_SECONDS:
            self.samples.popleft()

    def _continued(self, sample: PodSample) -> PodSample:
        """Replace counters by ones that never fall: a lower value is a restart from zero."""
        for name in COUNTERS:
            new = getattr(sample, name)
            if new is None:
                continue
            old = self._raw.get(name)
            if old is None:
                self._total[name] = new
            else:
                self._total[name] += new - old if new >= old else new
            self._raw[name] = new
        told = {n: self._total[n] for n in COUNTERS if getattr(sample, n) is not None}
        return replace(sample, **told)

    def _remember(self, last: PodSample, new: PodSample) -> None:
        span = new.time - last.time
        keep = math.exp(-span / MEMORY_SECONDS)
        memory = self.memory
        for name in COUNTERS[:2]:
            memory.tokens[name] = keep * memory.tokens.get(name, 0.0) + _step(last, new, name)
        memory.finished = keep * memory.finished + _step(last, new, "requests_finished")
        busy = (last.requests_running or 0.0) + (new.requests_running or 0.0)
        memory.busy_seconds = keep * memory.busy_seconds + busy / 2 * span

    @property
    def last_time(self) -> float | None:
        """Time of the newest sample."""
        return self.samples[-1].time if self.samples else None

    def is_blind(self, now: float) -> bool:
        """Tell whether a pod serves and has not been heard of for `stale_seconds`.

        A pod that is leaving closes its port before its object goes, so it is never blind.
        """
        heard = self.ready_at if self.last_time is None else self.last_time
        is_silent = heard is None or now - heard > self.stale_seconds
        return self.state is PodState.SERVING and is_silent

    @property
    def is_watched_from_birth(self) -> bool:
        """Tell whether the first scrape came with the first requests, and not in mid-life."""
        if self.ready_at is None or not self.samples:
            return False
        return self.samples[0].time - self.ready_at <= self.stale_seconds

    def tells(self, name: Counter | Gauge) -> bool:
        """Tell whether the newest sample has this value."""
        return bool(self.samples) and getattr(self.samples[-1], name) is not None

    def latest(self, gauge: Gauge) -> float | None:
        """Give the newest value of a gauge; None if the engine does not tell it."""
        value: float | None = getattr(self.samples[-1], gauge) if self.samples else None
        return value

    def mean(self, gauge: Gauge, start: float, end: float) -> float | None:
        """Give a gauge's mean over the samples between two times; None if it is not told."""
        told = [
            value
            for sample in self.samples
            if start <= sample.time <= end and (value := getattr(sample, gauge)) is not None
        ]
        return sum(told) / len(told) if told else None

    def increase(self, counter: Counter, start: float, end: float) -> float | None:
        """Give by how much a counter rose between two times, at least 0; None if it is not told.

        A start before the first sample counts from there: a pod's first scrapes come before its
        first requests.
        """
        first, last = self.at(counter, start), self.at(counter, end)
        return None if first is None or last is None else last - first

    def at(self, name: Counter | Gauge, time: float) -> float | None:
        """Give a value at a time, between two samples on the line through them.

        Before the first sample it is the first, after the last the last.
        """
        samples = self.samples
        if not samples:
            return None
        right = bisect_right(samples, time, key=lambda s: s.time)
        before, after = samples[max(right - 1, 0)], samples[min(right, len(samples) - 1)]
        low: float | None = getattr(before, name)
        high: float | None = getattr(after, name)
        if low is None or high is None or before is after:
            return high if low is None else low
        share = (time - before.time) / (after.time - before.time)
        return low + (high - low) * share


def stale_seconds(scrape_seconds: float) -> float:
    """After how long a silence a pod is blind, if it is scraped so often."""
    return max(STALE_SECONDS, STALE_SECONDS / 5 * scrape_seconds)


def _step(last: PodSample, new: PodSample, counter: Counter) -> float:
    low, high = getattr(last, counter), getattr(new, counter)
    return 0.0 if low is None or high is None else high - low
