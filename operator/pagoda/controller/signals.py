"""Asks the metrics server, through the API server, what it knows of all LLMDeployments at once.

Only the leader asks, as only it writes statuses. A change that status would show brings the
LLMDeployment into the queue; moving numbers alone do not.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pagoda.controller.cache import ObjectCache
from pagoda.controller.queue import Key
from pagoda.controller.scaling import NO_SIGNALS, Signals, Source
from pagoda.kube.client import KubeClient
from pagoda.kube.errors import KubeError, NotFoundError, TransientError
from pagoda.kube.resources import API_SERVICE, SIGNALS
from pagoda.render.objects import MANAGED_BY, MANAGED_BY_LABEL, Object

log = logging.getLogger(__name__)

# The tokens per second in status move when they differ by so much, and no oftener than that.
TOLD_SHARE = 0.1
TOLD_SECONDS = 30.0
# A learned capacity replaces the one in force when it differs by so much, and no oftener than that:
# each change of the target may change the count.
CAPACITY_SHARE = 0.15
CAPACITY_SECONDS = 600.0


@dataclass
class _Told:
    """What status was given last."""

    signals: Signals = NO_SIGNALS
    served_at: float = -TOLD_SECONDS
    capacity_at: float = -CAPACITY_SECONDS


class SignalSource:
    """The latest signals of every LLMDeployment that is autoscaled."""

    def __init__(
        self,
        client: KubeClient,
        cache: ObjectCache,
        on_news: Callable[[Key], None],
        *,
        period: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            client: access to the API server.
            cache: tells which LLMDeployments are autoscaled.
            on_news: called with an LLMDeployment whose status will be another.
            period: seconds between two looks.
            clock: monotonic seconds.
        """
        self._client = client
        self._cache = cache
        self._on_news = on_news
        self._period = period
        self._clock = clock
        self._told: dict[Key, _Told] = {}

    def of(self, key: Key) -> Signals:
        """Give the latest signals."""
        told = self._told.get(key)
        return NO_SIGNALS if told is None else told.signals

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(self._period)
            await self.look()

    async def look(self) -> None:
        """Ask once."""
        scaled = {key for key in self._cache.parents() if self._is_autoscaled(key)}
        for key in self._told.keys() - scaled:
            del self._told[key]
        if not scaled:
            return
        try:
            found = _by_key(await self._client.get(SIGNALS, None, ""))
        except KubeError as error:
            source, detail = await self._why(error)
            for key in scaled:
                self._take(key, replace(self.of(key), source=source, detail=detail, values={}))
            return
        for key in scaled:
            self._take(key, found.get(key, Signals("Serving")))

    def _is_autoscaled(self, key: Key) -> bool:
        parent = self._cache.parent(key)
        return parent is not None and bool(parent["spec"].get("autoscaling"))

    def _take(self, key: Key, new: Signals) -> None:
        if (told := self._told.get(key)) is None:
            # A new leader goes on from the status, or it would write what has hardly changed.
            told = self._told[key] = _Told(self._reported(key))
        now = self._clock()
        old = told.signals
        served, capacity, revision = old.served, old.capacity, old.capacity_revision
        if now - told.served_at >= TOLD_SECONDS and _differs(old.served, new.served, TOLD_SHARE):
            served, told.served_at = new.served, now
        if (
            new.capacity is not None
            and now - told.capacity_at >= CAPACITY_SECONDS
            and _differs(old.capacity, new.capacity, CAPACITY_SHARE)
        ):
            capacity, revision, told.capacity_at = new.capacity, new.capacity_revision, now
        told.signals = replace(new, served=served, capacity=capacity, capacity_revision=revision)
        if replace(told.signals, values={}) != replace(old, values={}) or self._is_shadow(key):
            self._on_news(key)

    def _reported(self, key: Key) -> Signals:
        status = (self._cache.parent(key) or {}).get("status") or {}
        scaling = status.get("autoscaling") or {}
        return Signals(
            served=status.get("tokensPerSecond"),
            capacity=scaling.get("capacityTokensPerSecond"),
            capacity_revision=scaling.get("capacityRevision"),
        )

    def _is_shadow(self, key: Key) -> bool:
        """Tell whether status itself says what each new value asks for."""
        parent = self._cache.parent(key)
        return parent is not None and parent["spec"]["autoscaling"].get("mode") == "Shadow"

    async def _why(self, error: KubeError) -> tuple[Source, str]:
        """Find out why nobody answers: nobody is there, or somebody else."""
        try:
            services = await self._client.list(API_SERVICE)
        except KubeError:
            return "Failing", error.message
        of_group = [s for s in services if s["spec"].get("group") == SIGNALS.group]
        if strangers := [s["metadata"]["name"] for s in of_group if not _is_ours(s)]:
            return "Foreign", ", ".join(sorted(strangers))
        if isinstance(error, NotFoundError) or not of_group:
            return "Missing", ""
        return "Failing", error.message


def _is_ours(service: Object) -> bool:
    return bool(service["metadata"].get("labels", {}).get(MANAGED_BY_LABEL) == MANAGED_BY)


def _by_key(answer: Object) -> dict[Key, Signals]:
    """Read the metrics server's answer.

    Raises:
        TransientError: it is none; perhaps another server's.
    """
    try:
        return {Key(item["namespace"], item["name"]): _signals(item) for item in answer["items"]}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TransientError(200, "NotSignals", f"not an answer of Pagoda's: {error!r}") from error


def _signals(item: Any) -> Signals:
    values = {k: float(v) for k, v in item["signals"].items() if v is not None}
    served = values.get("served_tokens_per_second")
    capacity = item.get("capacity") or {}
    known = capacity.get("tokensPerSecond")
    return Signals(
        "Serving",
        values=values,
        served=None if served is None else round(served),
        capacity=None if known is None else round(known),
        capacity_revision=capacity.get("revision"),
    )


def _differs(old: int | None, new: int | None, share: float) -> bool:
    if old is None or new is None:
        return old is not new
    return abs(new - old) > share * old
