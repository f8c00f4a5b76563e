"""Asks the metrics server, through the API server, what it knows of all LLMDeployments at once.

Only the leader asks, as only it writes statuses. A change that status would show brings the
LLMDeployment into the queue; moving numbers alone do not.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from pagoda.api.conditions import OVERLOADED, Reason
from pagoda.autoscaling.capacity import LearnedCapacity
from pagoda.controller.cache import ObjectCache
from pagoda.controller.queue import Key
from pagoda.controller.scaling import Signals, Source
from pagoda.controller.status import previous_status
from pagoda.kube.client import KubeClient
from pagoda.kube.errors import KubeError, NotFoundError, TransientError
from pagoda.kube.resources import API_SERVICE, SIGNALS
from pagoda.render.objects import MANAGED_BY, MANAGED_BY_LABEL, Object

# The tokens per second in status move when they differ by so much, and no oftener than that.
TOLD_SHARE = 0.1
TOLD_SECONDS = 30.0
# In periods. An overload is told for so long after it was seen; each change of it writes a status
# and an Event.
OVERLOAD_PERIODS = 4
# After so long without an answer what was heard last is not told any more.
FORGET_PERIODS = 4
FRESH_SECONDS = 1.0


@dataclass
class _Told:
    """What status was given last, and what is learned for it."""

    signals: Signals
    learned: LearnedCapacity
    heard_at: float
    served_at: float = -TOLD_SECONDS
    overloaded_at: dict[Reason | None, float] = field(default_factory=dict)

    def overload(self, since: float) -> Reason | None:
        """Give the worst of late: it comes and goes, and as it ends requests only wait."""
        return next((o for o in OVERLOADED if self.overloaded_at.get(o, since) > since), None)


@dataclass(frozen=True)
class _Look:
    """What the metrics server says of one LLMDeployment."""

    values: Mapping[str, float] = field(default_factory=dict)
    saturated: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By revision and pod: tokens/s of replicas that had more to do than they could."""
    overload: Reason | None = None


class SignalSource:
    """The latest signals of every LLMDeployment."""

    def __init__(
        self,
        client: KubeClient,
        cache: ObjectCache,
        on_news: Callable[[Key], None],
        *,
        period: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare.

        Args:
            client: access to the API server.
            cache: tells which LLMDeployments there are, and which of them are autoscaled.
            on_news: called with an LLMDeployment whose status will be another.
            period: seconds between two looks.
            clock: seconds since 1970.
        """
        self._client = client
        self._cache = cache
        self._on_news = on_news
        self._period = period
        self._clock = clock
        self._told: dict[Key, _Told] = {}
        self._looking = asyncio.Lock()
        self._looked_at = 0.0

    async def now(self, key: Key) -> Signals:
        """Give signals of this second, to tell what has just caused a change."""
        async with self._looking:
            if self._clock() - self._looked_at > FRESH_SECONDS:
                await self.look()
        return self.of(key)

    def of(self, key: Key) -> Signals:
        """Give the latest signals."""
        return self._last(key).signals

    def forget(self, key: Key) -> None:
        """Let go of what is known of a deleted LLMDeployment."""
        self._told.pop(key, None)

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(self._period)
            await self.look()

    async def look(self) -> None:
        """Ask once."""
        self._looked_at = self._clock()
        if not self._cache.parents():
            return
        try:
            found = _by_key(await self._client.get(SIGNALS, None, ""))
        except KubeError as error:
            source, detail = await self._why(error)
            for key in self._cache.parents():
                self._miss(key, source, detail)
            return
        for key in self._cache.parents():
            self._take(key, found.get(key, _Look()))

    def _miss(self, key: Key, source: Source, detail: str) -> None:
        last = self._last(key)
        failed = replace(last.signals, source=source, detail=detail, values={})
        if self._clock() - last.heard_at > FORGET_PERIODS * self._period:
            failed = replace(failed, served=None, overload=None)
        self._tell(key, last, failed)

    def _is_autoscaled(self, key: Key) -> bool:
        parent = self._cache.parent(key)
        return parent is not None and bool(parent["spec"].get("autoscaling"))

    def _take(self, key: Key, look: _Look) -> None:
        last, now = self._last(key), self._clock()
        last.heard_at = now
        served, rate = last.signals.served, look.values.get("served_tokens_per_second")
        new = None if rate is None else round(rate)
        if now - last.served_at >= TOLD_SECONDS and _differs(served, new):
            served, last.served_at = new, now
        last.overloaded_at[look.overload] = now
        overload = last.overload(now - OVERLOAD_PERIODS * self._period)
        revision = self._revision(key)
        last.learned.observe(revision, look.saturated.get(revision, {}), now)
        capacity = last.learned.known()
        self._tell(key, last, Signals("Serving", "", look.values, served, overload, capacity))

    def _tell(self, key: Key, last: _Told, new: Signals) -> None:
        old, last.signals = last.signals, new
        if self._is_autoscaled(key):
            is_news = replace(new, values={}) != replace(old, values={}) or self._is_shadow(key)
        else:
            is_news = (new.served, new.overload) != (old.served, old.overload)
        if is_news:
            self._on_news(key)

    def _last(self, key: Key) -> _Told:
        """A new leader goes on from the status, or it would write what has hardly changed."""
        if (told := self._told.get(key)) is None:
            status, now = previous_status(self._cache.parent(key) or {}), self._clock()
            capacity = status.autoscaling.capacity if status.autoscaling else None
            overload = _overload(status.reason)
            told = self._told[key] = _Told(
                Signals(served=status.tokens_per_second, overload=overload, capacity=capacity),
                LearnedCapacity.of(capacity),
                heard_at=now,
                overloaded_at={overload: now},
            )
        return told

    def _revision(self, key: Key) -> str:
        status: Object = (self._cache.parent(key) or {}).get("status") or {}
        return str(status.get("revision", ""))

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


def _by_key(answer: Object) -> dict[Key, _Look]:
    """Read the metrics server's answer.

    Raises:
        TransientError: it is none; perhaps another server's.
    """
    try:
        return {Key(item["namespace"], item["name"]): _look(item) for item in answer["items"]}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TransientError(200, "NotSignals", f"not an answer of Pagoda's: {error!r}") from error


def _look(item: Object) -> _Look:
    signals = item["signals"].items()
    saturated: dict[str, dict[str, float]] = {}
    for pod in item["saturated"]:
        saturated.setdefault(pod["revision"], {})[pod["pod"]] = float(pod["tokensPerSecond"])
    values = {k: float(v["value"]) for k, v in signals if v["value"] is not None}
    # One of the last release does not tell it yet.
    return _Look(values, saturated, _overload(item.get("overload")))


def _overload(told: object) -> Reason | None:
    return next((known for known in OVERLOADED if known.name == told), None)


def _differs(old: int | None, new: int | None) -> bool:
    if old is None or new is None:
        return old is not new
    return abs(new - old) > TOLD_SHARE * old
