"""Answers that stay good for a short while."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A bounded memory of answers; those who ask the same at the same time share one question."""

    def __init__(
        self, seconds: float, *, most: int = 10_000, clock: Callable[[], float] = time.monotonic
    ):
        self._seconds = seconds
        self._most = most
        self._clock = clock
        self._known: dict[K, tuple[float, V]] = {}  # oldest first
        self._asking: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        """Give the answer of the last `seconds`, or ask. A failure is raised and not remembered."""
        if (known := self._known.get(key)) is not None and self._clock() < known[0]:
            return known[1]
        if (asking := self._asking.get(key)) is None:
            asking = asyncio.create_task(self._ask(key, ask))
            self._asking[key] = asking
        # One who goes away must not take the others' answer along.
        return await asyncio.shield(asking)

    async def _ask(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        try:
            answer = await ask()
        finally:
            del self._asking[key]
        self._known.pop(key, None)
        self._known[key] = self._clock() + self._seconds, answer
        self._forget()
        return answer

    def _forget(self) -> None:
        now = self._clock()
        while self._known:
            oldest = next(iter(self._known))
            if len(self._known) <= self._most and now < self._known[oldest][0]:
                return
            del self._known[oldest]
