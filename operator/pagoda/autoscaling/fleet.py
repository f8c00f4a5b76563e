"""The pods of one LLMDeployment seen as one: sums over windows, and who stands for whom. Pure.

Work is in output-equivalent tokens: a generated token is 1, a prompt token `prompt_weight`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from pagoda.autoscaling.samples import Counter, Gauge, PodHistory, PodState

BUSY_SECONDS = 60.0


@dataclass(frozen=True)
class Work:
    """What came in and what was done over one window, in requests and output-equivalent tokens."""

    span: float
    """Seconds."""
    served: float
    """Tokens."""
    finished: float
    rejected: float
    more_waiting: float
    more_running: float

    @property
    def accepted(self) -> float:
        """Requests that came in and were taken."""
        return max(self.finished + self.more_waiting + self.more_running, 0.0)

    @property
    def shed(self) -> float:
        """Requests refused, at most as many as were taken: a client that tries again is not new."""
        return min(self.rejected, self.accepted)


@dataclass(frozen=True)
class Fleet:
    """All pods of one LLMDeployment at one time."""

    pods: Sequence[PodHistory]
    """Those deleted within the last window too: what they did is still part of it."""
    now: float
    prompt_weight: float

    @cached_property
    def serving(self) -> list[PodHistory]:
        """Pods that have been ready and are not leaving."""
        return [p for p in self.pods if p.state is PodState.SERVING]

    @cached_property
    def blind(self) -> list[PodHistory]:
        """Serving pods of which nothing is known, by silence or by a page that lacks its counter."""
        return [p for p in self.serving if p.is_blind(self.now) or _has_lost_its_counter(p)]

    @cached_property
    def seen(self) -> list[PodHistory]:
        """Pods whose numbers count: those that serve and are heard of, leaving and gone ones."""
        blind = {id(p) for p in self.blind}
        return [p for p in self.pods if p.samples and id(p) not in blind]

    @cached_property
    def share(self) -> float:
        """By what the seen serving pods are multiplied to stand for the blind ones too."""
        seen = len(self.serving) - len(self.blind)
        return len(self.serving) / seen if seen else 1.0

    @property
    def span(self) -> float:
        """For how many seconds anything has been watched."""
        if not self.seen:
            return 0.0
        return max(p.samples[-1].time for p in self.seen) - min(
            p.samples[0].time for p in self.seen
        )

    def starting(self, spec_replicas: int) -> int:
        """Count the replicas that are ordered and do not serve yet, with a pod or without."""
        return max(spec_replicas - len(self.serving), 0)

    @property
    def start_seconds(self) -> float:
        """How long a start takes: the usual one, or the age of one that takes longer."""
        done = [p.start_seconds for p in self.pods if p.start_seconds is not None]
        ages = [self.now - p.created for p in self.pods if p.state is PodState.STARTING]
        return max([median(done) if done else 0.0, *ages])

    def total(self, gauge: Gauge) -> float | None:
        """Sum a gauge over the pods that exist; None where none tells it."""
        here = [p for p in self.seen if p.state is not PodState.GONE]
        return _sum((p.latest(gauge), self._factor(p)) for p in here)

    @cached_property
    def request_tokens(self) -> float | None:
        """Mean work of one request over the last minutes; None where no engine counts requests.

        A request that still runs is taken as half done; without it the first one to finish would
        be charged with the tokens of all.
        """
        if not any(p.tells("requests_finished") for p in self.seen):
            return None
        tokens = sum(self._memory_tokens(p) for p in self.seen)
        requests = sum(
            p.memory.finished + (0.0 if p.counts_at_finish else _half_running(p)) for p in self.seen
        )
        return tokens / requests if requests > 0 else None

    @cached_property
    def _running_rate(self) -> float | None:
        """Tokens per second of one running request, for engines that count only at its end.

        Little's law: over minutes, tokens counted / request-seconds run. Those still running, half
        done, have put in seconds and no tokens yet, and are taken out.
        """
        late = [p for p in self.seen if p.counts_at_finish]
        tokens = sum(self._memory_tokens(p) for p in late)
        busy = sum(p.memory.busy_seconds for p in late)
        finished = sum(p.memory.finished for p in late)
        if not (busy and finished):
            return None
        return tokens / busy * (1 + sum(_half_running(p) for p in late) / finished)

    def work(self, span: float) -> Work | None:
        """Sum what happened in the last `span` seconds; None where tokens cannot be told."""
        served = _sum((self._served(p, span), self._factor(p)) for p in self.seen)
        if served is None:
            return None
        return Work(
            span=span,
            served=served,
            finished=self._increase("requests_finished", span),
            rejected=self._increase("requests_rejected", span),
            more_waiting=self._growth("requests_waiting", span),
            more_running=self._growth("requests_running", span),
        )

    @property
    def in_busiest(self) -> int:
        """How many replicas would do all the work if each did as much as the busiest pod does."""
        span = min(self.span, BUSY_SECONDS)
        rates = [self._served(p, span) or 0.0 for p in self.seen if p.state is PodState.SERVING]
        busiest = max(rates, default=0.0)
        return math.ceil(self.share * sum(rates) / busiest - 1e-9) if busiest > 0 else 0

    def _factor(self, pod: PodHistory) -> float:
        return self.share if pod.state is PodState.SERVING else 1.0

    def _end(self, pod: PodHistory) -> float:
        # Scrapes of different pods are seconds apart, so each has its own window up to its newest
        # one. What is gone has stopped counting: its window is the clock's.
        return self.now if pod.state is PodState.GONE else pod.samples[-1].time

    def _served(self, pod: PodHistory, span: float) -> float | None:
        end = self._end(pod)
        if pod.counts_at_finish:
            running = pod.mean("requests_running", end - span, end)
            if running is None or (running > 0 and self._running_rate is None):
                return None
            return running * (self._running_rate or 0.0) * span
        generated = pod.increase("generation_tokens", end - span, end)
        if generated is None:
            return None
        prompted = pod.increase("prompt_tokens", end - span, end)
        return generated + self.prompt_weight * (prompted or 0.0)

    def _increase(self, counter: Counter, span: float) -> float:
        ends = [(p, self._end(p)) for p in self.seen]
        told = ((p.increase(counter, end - span, end), self._factor(p)) for p, end in ends)
        return _sum(told) or 0.0

    def _growth(self, gauge: Gauge, span: float) -> float:
        def of(pod: PodHistory) -> float | None:
            start = self._end(pod) - span
            is_new = start < pod.samples[0].time and pod.is_watched_from_birth
            before = 0.0 if is_new else pod.at(gauge, start)
            after = 0.0 if pod.state is PodState.GONE else pod.latest(gauge)
            return None if before is None or after is None else after - before

        return _sum((of(p), self._factor(p)) for p in self.seen) or 0.0

    def _memory_tokens(self, pod: PodHistory) -> float:
        tokens = pod.memory.tokens
        return tokens.get("generation_tokens", 0.0) + self.prompt_weight * tokens.get(
            "prompt_tokens", 0.0
        )


def _has_lost_its_counter(pod: PodHistory) -> bool:
    told = any(s.generation_tokens is not None for s in pod.samples)
    return told and not pod.tells("generation_tokens")


def _half_running(pod: PodHistory) -> float:
    return (pod.latest("requests_running") or 0.0) / 2 if pod.state is not PodState.GONE else 0.0


def _sum(told: Iterable[tuple[float | None, float]]) -> float | None:
    """Sum what is told, weighed; None where nothing is."""
    values = [value * factor for value, factor in told if value is not None]
    return sum(values) if values else None
