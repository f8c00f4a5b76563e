"""A work queue with client-go's semantics (k8s.io/client-go/util/workqueue).

A key is queued once however often it is added; a key added while it is being worked on is worked on
again afterwards; one key is never worked on twice at a time.
"""

import asyncio
import random
import time
from typing import NamedTuple

from prometheus_client import Counter, Gauge, Histogram

BASE_DELAY = 0.5
_NAME = "llmdeployment"

DEPTH = Gauge("workqueue_depth", "Keys that wait.", ["name"]).labels(_NAME)
ADDS = Counter("workqueue_adds_total", "Keys added.", ["name"]).labels(_NAME)
RETRIES = Counter("workqueue_retries_total", "Keys added again after a failure.", ["name"]).labels(
    _NAME
)
QUEUE_SECONDS = Histogram("workqueue_queue_duration_seconds", "Time a key waits.", ["name"]).labels(
    _NAME
)
WORK_SECONDS = Histogram(
    "workqueue_work_duration_seconds", "Time a key is worked on.", ["name"]
).labels(_NAME)


class Key(NamedTuple):
    """An LLMDeployment."""

    namespace: str
    name: str


class WorkQueue:
    """Keys to reconcile. Lives in one event loop."""

    def __init__(self) -> None:
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._dirty: dict[Key, float] = {}  # key → when it was added
        self._active: dict[Key, float] = {}  # key → when work began
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}

    def add(self, key: Key) -> None:
        """Queue the key, unless it waits already."""
        if key in self._dirty:
            return
        self._dirty[key] = time.monotonic()
        ADDS.inc()
        if key not in self._active:
            self._ready.put_nowait(key)
            DEPTH.inc()

    def add_after(self, key: Key, seconds: float) -> None:
        """Queue the key later. Of two such wishes the earlier one counts."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if (timer := self._timers.get(key)) is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._fire, key)

    def retry(self, key: Key, *, cap: float, at_least: float = 0.0) -> float:
        """Queue the key after its failure: 0.5 s, doubling with each, with jitter, up to `cap`.

        Args:
            key: the key that failed.
            cap: longest delay in seconds.
            at_least: shortest delay in seconds, such as a Retry-After.

        Returns:
            The delay in seconds.
        """
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay: float = min(BASE_DELAY * 2 ** min(failures, 20), cap) * random.uniform(0.8, 1.0)
        delay = max(delay, at_least)
        RETRIES.inc()
        self.add_after(key, delay)
        return delay

    def forget(self, key: Key) -> None:
        """Reset the back-off after a success."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """Wait for a key and begin work on it; `done` must follow."""
        key = await self._ready.get()
        DEPTH.dec()
        now = time.monotonic()
        QUEUE_SECONDS.observe(now - self._dirty.pop(key))
        self._active[key] = now
        return key

    def done(self, key: Key) -> None:
        """End work on the key; queue it again if it was added meanwhile."""
        WORK_SECONDS.observe(time.monotonic() - self._active.pop(key))
        if key in self._dirty:
            self._ready.put_nowait(key)
            DEPTH.inc()

    def close(self) -> None:
        """Cancel all timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    @property
    def idle(self) -> bool:
        """Whether nothing waits (timers aside) and nothing is worked on."""
        return not self._dirty and not self._active

    def _fire(self, key: Key) -> None:
        del self._timers[key]
        self.add(key)
