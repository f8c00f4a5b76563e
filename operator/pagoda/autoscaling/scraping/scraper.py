"""Asks every engine pod for its metrics page, every few seconds and directly.

No proxy, no redirect, no name: what a pod answers is never allowed to send us elsewhere, nor to
fill our memory.
"""

import asyncio
import heapq
import itertools
import logging
import random
import time
from dataclasses import dataclass

import aiohttp
from prometheus_client import Counter, Histogram
from yarl import URL

from pagoda.autoscaling.scraping.page import Table
from pagoda.autoscaling.scraping.roster import EXPECTED, Replica, Roster
from pagoda.engines import ENGINES
from pagoda.engines.base import PORT

log = logging.getLogger(__name__)

LONGEST_PAGE = 4 << 20  # bytes; vLLM's has 70 KB
LONGEST_BACKOFF_SECONDS = 20.0
DISPATCH_SECONDS = 0.005

SECONDS = Histogram(
    "pagoda_scrape_duration_seconds",
    "Time of a scrape that brought a page.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0),
)
FAILURES = Counter(
    "pagoda_scrape_failures_total", "Scrapes of pods that serve and told nothing.", ["cause"]
)
LATE = Histogram(
    "pagoda_scrape_lateness_seconds",
    "How much later than due a scrape began; it grows when there are more pods than can be asked.",
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)

# Shares, of which an engine's several series make a mean.
TABLES = {
    name: Table(profile.metrics, averaged=frozenset({"kv_cache_usage"}))
    for name, profile in ENGINES.items()
}


@dataclass(frozen=True)
class Pace:
    """How often and how hard pods are asked. Times in seconds."""

    interval: float = 5.0
    timeout: float = 2.0
    concurrency: int = 64


class PageError(Exception):
    """A pod answered with something that is no metrics page."""


class Scraper:
    """Scrapes the pods of a roster until each is gone."""

    def __init__(self, roster: Roster, pace: Pace):
        """Take the roster that is to hear what pods tell."""
        self._roster = roster
        self._pace = pace
        self._due: list[tuple[float, int, Replica]] = []
        self._order = itertools.count()  # pods due at the same time are not to be compared
        self._queue: asyncio.Queue[tuple[float, Replica]] = asyncio.Queue()
        self._timeouts: dict[str, int] = {}  # by the pod's UID: how many in a row

    def add(self, replica: Replica) -> None:
        """Scrape a pod from now on, at a moment of its own within the interval."""
        self._schedule(replica, random.uniform(0, self._pace.interval))

    async def run(self) -> None:
        """Scrape for ever."""
        connector = aiohttp.TCPConnector(
            limit=0,  # the workers are the limit
            keepalive_timeout=LONGEST_BACKOFF_SECONDS,
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=self._pace.timeout),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept": "text/plain", "Accept-Encoding": "identity"},
                auto_decompress=False,
                trust_env=False,
            ) as session,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(self._pace.concurrency):
                tasks.create_task(self._work(session))
            tasks.create_task(self._dispatch())

    async def _dispatch(self) -> None:
        """Hand out pods as they become due."""
        while True:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                due, _, replica = heapq.heappop(self._due)
                self._queue.put_nowait((due, replica))
            # Small bursts, between which queries are answered; a pod may be added at any time.
            wait = self._due[0][0] - now if self._due else self._pace.interval
            await asyncio.sleep(min(max(wait, DISPATCH_SECONDS), self._pace.interval / 100))

    async def _work(self, session: aiohttp.ClientSession) -> None:
        while True:
            due, replica = await self._queue.get()
            if not replica.exists:
                self._timeouts.pop(replica.uid, None)
                continue
            LATE.observe(time.monotonic() - due)
            delay = self._pace.interval
            if replica.address:
                delay = await self._scrape(session, replica)
            # Counted from when it was due: a slow pod is asked no more rarely than others.
            later = due + delay * random.uniform(0.95, 1.05) - time.monotonic()
            self._schedule(replica, max(later, 0.0))

    async def _scrape(self, session: aiohttp.ClientSession, replica: Replica) -> float:
        """Scrape once; returns the time until the next."""
        began = time.monotonic()
        try:
            page = await self._page(session, replica.address)
            values = read(page, replica)
        except TimeoutError:
            self._failed(replica, "timeout", f"no answer within {self._pace.timeout:g} s")
            # Pods on a node that is cut off must not take all the workers' time.
            times = self._timeouts[replica.uid] = self._timeouts.get(replica.uid, 0) + 1
            longest = max(LONGEST_BACKOFF_SECONDS, self._pace.interval)
            return float(min(self._pace.interval * 2 ** min(times - 1, 10), longest))
        except (aiohttp.ClientError, OSError) as error:
            self._failed(replica, "connection", str(error) or type(error).__name__)
        except (PageError, ValueError) as error:
            self._failed(replica, "page", str(error))
        else:
            SECONDS.observe(time.monotonic() - began)
            if replica.error:
                log.info("pod is heard of again", extra=_about(replica))
            self._roster.heard(replica, values, began)
        self._timeouts.pop(replica.uid, None)
        return self._pace.interval

    async def _page(self, session: aiohttp.ClientSession, address: str) -> bytes:
        url = URL.build(scheme="http", host=address, port=PORT, path="/metrics")
        async with session.get(url, allow_redirects=False) as answer:
            if answer.status != 200:
                raise PageError(f"status {answer.status}")
            parts, size = [], 0
            async for part in answer.content.iter_any():
                parts.append(part)
                size += len(part)
                if size > LONGEST_PAGE:
                    raise PageError(f"more than {LONGEST_PAGE} bytes")
            return b"".join(parts)

    def _failed(self, replica: Replica, cause: str, text: str) -> None:
        if replica.history.state not in EXPECTED:
            return
        FAILURES.labels(cause).inc()
        if not replica.error:  # once per outage
            log.warning("pod cannot be scraped: %s", text, extra=_about(replica))
        replica.error = text

    def _schedule(self, replica: Replica, delay: float) -> None:
        heapq.heappush(self._due, (time.monotonic() + delay, next(self._order), replica))


def read(page: bytes, replica: Replica) -> dict[str, float]:
    """Read a pod's page by its engine's names; the engine is recognised by its first page.

    The pod tells, not the LLMDeployment: during a change of engines both are behind one.

    Raises:
        PageError: it is no known engine's page.
        ValueError: it is broken.
    """
    names = [replica.engine] if replica.engine else list(TABLES)
    for name in names:
        if values := TABLES[name].read(page):
            replica.engine = name
            return values
    raise PageError("none of the engine's metrics is on it")


def _about(replica: Replica) -> dict[str, str]:
    namespace, name = replica.key
    return {"namespace": namespace, "llmdeployment": name, "pod": replica.name}
