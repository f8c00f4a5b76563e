"""A local copy of the objects of one kind: one LIST, then a WATCH, for as long as the process runs.

For processes that only look: the operator's watches are kopf's. What client-go calls a reflector.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from pagoda.kube.client import KubeClient
from pagoda.kube.errors import ExpiredError, KubeError
from pagoda.kube.resources import Resource
from pagoda.render.objects import Object

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 0.5
LAST_RETRY_SECONDS = 30.0
PAUSE_SECONDS = 0.1
SILENCE_SECONDS = 75.0  # a bookmark comes about every 60

Name = tuple[str, str]  # namespace ("" for cluster-wide kinds), name


class Mirror:
    """Objects of one kind by namespace and name, kept up to date by `run`."""

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        keep: Callable[[Object], Object] = lambda obj: obj,
        on_change: Callable[[Object | None, Object | None], None] = lambda _before, _after: None,
    ):
        """Choose what to copy.

        Args:
            client: the way to the API server.
            resource: the kind.
            namespace: only of this one; None: of all.
            label_selector: only what fits it.
            field_selector: only what fits it, as in `metadata.name=x`.
            keep: takes from an object what is worth its memory.
            on_change: told of every change: the object before (None: it is new) and after (None:
                it is gone). Must not fail.
        """
        self._client = client
        self._resource = resource
        self._selection = (namespace, label_selector, field_selector)
        self._keep = keep
        self._on_change = on_change
        self.objects: dict[Name, Object] = {}
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """Follow the API server, over every outage."""
        version = ""
        delay = FIRST_RETRY_SECONDS
        while True:
            try:
                if not version:
                    listed, version = await self._client.snapshot(self._resource, *self._selection)
                    self._replace(listed)
                    self.synced.set()
                    delay = FIRST_RETRY_SECONDS
                async for kind, obj in self._client.watch(
                    self._resource, *self._selection, version=version, silence=SILENCE_SECONDS
                ):
                    version = obj["metadata"]["resourceVersion"]
                    delay = FIRST_RETRY_SECONDS
                    self._absorb(kind, obj)
                await asyncio.sleep(PAUSE_SECONDS)  # a proxy may end every watch at once
            except ExpiredError:
                version = ""
            except KubeError as error:
                log.warning("%s cannot be followed: %s", self._resource.plural, error)
                await asyncio.sleep(delay * random.uniform(0.8, 1.2))
                delay = min(2 * delay, LAST_RETRY_SECONDS)

    def _replace(self, listed: Sequence[Object]) -> None:
        present = {_name(obj) for obj in listed}
        for name in self.objects.keys() - present:
            self._on_change(self.objects.pop(name), None)
        for obj in listed:
            self._store(obj)

    def _absorb(self, kind: str, obj: Object) -> None:
        if kind == "DELETED":
            if (before := self.objects.pop(_name(obj), None)) is not None:
                self._on_change(before, None)
        elif kind != "BOOKMARK":
            self._store(obj)

    def _store(self, obj: Object) -> None:
        name = _name(obj)
        before = self.objects.get(name)
        after = self.objects[name] = self._keep(obj)
        if before != after:
            self._on_change(before, after)


def _name(obj: Object) -> Name:
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]
