"""LIST as the second source of truth.

kopf reports no deletion that happened in a gap of a watch which ended in a new LIST (kopf 1.45), and
a watch can die unnoticed. So every kind is listed at the start and every few minutes, and what the
watch had missed is queued.
"""

import asyncio
import logging
import random
import time
from collections.abc import Sequence

from pagoda.controller.cache import ObjectCache, parent_key
from pagoda.controller.cordons import CORDONED, Cordons
from pagoda.controller.queue import WorkQueue
from pagoda.controller.watches import WATCHED
from pagoda.kube.client import KubeClient
from pagoda.kube.errors import KubeError, NotFoundError
from pagoda.kube.resources import CHILD_SELECTOR, LLMDEPLOYMENT, NODE, Resource
from pagoda.observability.health import Health
from pagoda.observability.metrics import DEPLOYMENTS, WATCH_SILENT

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 30.0


class Relister:
    """Lists all kinds into the cache."""

    def __init__(
        self,
        client: KubeClient,
        cache: ObjectCache,
        cordons: Cordons,
        queue: WorkQueue,
        health: Health,
        *,
        namespaces: Sequence[str],
        period: float,
    ):
        self._client = client
        self._cache = cache
        self._cordons = cordons
        self._queue = queue
        self._health = health
        self._namespaces: Sequence[str | None] = namespaces or [None]
        self._period = period
        self._kinds = (*WATCHED, NODE) if cordons.visible else WATCHED

    async def prime(self) -> None:
        """Fill the cache, trying for as long as it takes, and queue every LLMDeployment."""
        delay = FIRST_RETRY_SECONDS
        while True:
            resource = WATCHED[0]
            try:
                for resource in self._kinds:
                    await self._list(resource)
                break
            except NotFoundError:
                log.warning(
                    "the API server does not know %s.%s: is the CRD installed?",
                    resource.plural,
                    resource.group,
                )
            except KubeError as error:
                log.warning("%s cannot be listed yet: %s", resource.plural, error)
            await asyncio.sleep(delay)
            delay = min(2 * delay, LAST_RETRY_SECONDS)
        for key in self._cache.parents():
            self._queue.add(key)
        DEPLOYMENTS.set(len(self._cache.parents()))

    async def run(self) -> None:
        """List again and again."""
        while True:
            await asyncio.sleep(self._period * random.uniform(0.9, 1.1))
            for resource in self._kinds:
                started = time.monotonic()
                if await self._found_unseen(resource):
                    self._health.suspect(resource.plural, started)
                else:
                    self._health.trust(resource.plural)
            silent = self._health.silent_watches()
            for resource in self._kinds:
                WATCH_SILENT.labels(resource.plural).set(resource.plural in silent)
            DEPLOYMENTS.set(len(self._cache.parents()))

    async def _found_unseen(self, resource: Resource) -> bool:
        """List a kind; tell whether something was new that its watch should still report."""
        try:
            changed = await self._list(resource)
        except KubeError as error:
            log.warning("%s could not be listed: %s", resource.plural, error)
            return False
        return changed > 0

    async def _list(self, resource: Resource) -> int:
        """List a kind into the cache and queue what it concerns.

        Returns:
            How many objects were new or newer. Vanished ones are not counted: no watch would ever
            report them.
        """
        if resource == NODE:
            return await self._list_cordoned()
        selector = "" if resource == LLMDEPLOYMENT else CHILD_SELECTOR
        appeared = 0
        for namespace in self._namespaces:
            before = self._cache.newest(resource)
            listed = await self._client.list(resource, namespace, selector)
            present = {obj["metadata"]["uid"] for obj in listed}
            for obj in self._cache.replace(resource, listed, namespace, before):
                appeared += obj["metadata"]["uid"] in present
                if (key := parent_key(obj)) is not None:
                    self._queue.add(key)
        return appeared

    async def _list_cordoned(self) -> int:
        changed = self._cordons.replace(await self._client.list(NODE, field_selector=CORDONED))
        for name in changed:
            for key in self._cache.on_node(name):
                self._queue.add(key)
        return sum(name in self._cordons for name in changed)
