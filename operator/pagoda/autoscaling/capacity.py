"""What one replica can do, learned from replicas that had more to do than they could. Pure.

A replica whose queue was never empty over a window worked at its capacity in that window. The 90th
percentile of the last such windows is the capacity: high, because a window in which KV blocks were
short or clients slow shows less than the engine can do.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile

from pagoda.api.autoscaling import Capacity
from pagoda.autoscaling.fleet import Fleet
from pagoda.autoscaling.samples import PodHistory

WINDOW_SECONDS = 30.0
WINDOWS_NEEDED = 2
WINDOWS_KEPT = 20  # ten minutes of one saturated replica: a change of the mix shows in that time
PERCENTILE = 0.9
CHANGE = 0.15  # every change of the target changes the HPA and may change the count
CHANGE_SECONDS = 600.0


def is_saturated(pod: PodHistory, now: float) -> bool:
    """Tell whether requests waited all through the last window."""
    if pod.is_blind(now) or not pod.samples:
        return False
    start = pod.samples[-1].time - WINDOW_SECONDS
    if pod.samples[0].time > start:
        return False
    # The newest first: of most pods it is all that is looked at.
    return all(
        s.requests_waiting for s in takewhile(lambda s: s.time >= start, reversed(pod.samples))
    )


def saturated_rate(pod: PodHistory, now: float, prompt_weight: float) -> float | None:
    """Give the pod's rate over the last window if requests waited all through it.

    Returns:
        Output-equivalent tokens per second; None where the pod was not saturated or is not known.
    """
    if not is_saturated(pod, now):
        return None
    work = Fleet([pod], now, prompt_weight).work(WINDOW_SECONDS)
    return work.served / WINDOW_SECONDS if work and work.served > 0 else None


@dataclass
class LearnedCapacity:
    """The capacity in force, and the windows from which the next one may come.

    Only what is in force is kept in status; windows that are lost in a restart are seen again.
    Times are wall-clock seconds, so that they outlive the process.
    """

    revision: str = ""
    """The pod template's revision for which `tokens_per_second` was learned."""
    tokens_per_second: float | None = None
    changed_at: float = -math.inf
    _windows: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOWS_KEPT))
    _windows_of: str = ""
    _taken: dict[str, float] = field(default_factory=dict)  # by pod: when its last window was taken

    def observe(self, revision: str, rates: Mapping[str, float], now: float) -> bool:
        """Take the saturated rates of pods of the current revision, as often as they are known.

        Args:
            revision: the current one. Another than before starts afresh.
            rates: `saturated_rate` by pod; those that are None left out.
            now: wall-clock seconds.

        Returns:
            Whether the capacity in force changed.
        """
        if revision != self._windows_of:
            self._windows.clear()
            self._taken.clear()
            self._windows_of = revision
        for pod, rate in rates.items():
            if now - self._taken.get(pod, -math.inf) >= WINDOW_SECONDS:  # windows do not overlap
                self._taken[pod] = now
                self._windows.append(rate)
        self._taken = {p: t for p, t in self._taken.items() if now - t < WINDOW_SECONDS}
        return self._adopt(now)

    def _adopt(self, now: float) -> bool:
        if len(self._windows) < WINDOWS_NEEDED:
            return False
        ordered = sorted(self._windows)
        found = ordered[math.ceil(PERCENTILE * len(ordered)) - 1]
        old = self.tokens_per_second
        if old is not None:
            is_small = abs(found / old - 1) <= CHANGE
            if is_small and self.revision != self._windows_of:
                self.revision = self._windows_of  # seen to hold for this one too
                return True
            if is_small or now - self.changed_at < CHANGE_SECONDS:
                return False
        self.tokens_per_second, self.revision, self.changed_at = found, self._windows_of, now
        return True

    def known(self) -> Capacity | None:
        """Give the capacity in force, as status.autoscaling keeps it; None while none is learned."""
        if self.tokens_per_second is None:
            return None
        return Capacity(
            tokens_per_second=round(self.tokens_per_second),
            revision=self.revision,
            changed_at=int(self.changed_at),
        )

    @classmethod
    def of(cls, known: Capacity | None) -> "LearnedCapacity":
        """Go on from what `known` gave."""
        if known is None or known.tokens_per_second <= 0:
            return cls()
        return cls(known.revision, float(known.tokens_per_second), float(known.changed_at))
