"""Kubernetes Events: one when a state begins, a series when it keeps coming back."""

import datetime
import logging
import time
import uuid
from typing import Literal, NamedTuple

from pagoda.kube.client import KubeClient
from pagoda.kube.errors import FencedError, KubeError
from pagoda.kube.resources import EVENT
from pagoda.render.objects import Object

log = logging.getLogger(__name__)

REMEMBERED = 1000
NOTE_LIMIT = 1000  # bytes; the API allows 1024
SERIES_INTERVAL_SECONDS = 300.0


class _Series(NamedTuple):
    """An event that may come again."""

    namespace: str
    name: str
    times: int
    told_at: float  # monotonic


class EventRecorder:
    """Writes events.k8s.io/v1 events about LLMDeployments. An event that is lost harms nothing."""

    def __init__(self, client: KubeClient, *, controller: str, instance: str):
        self._client = client
        self._controller = controller
        self._instance = instance
        self._series: dict[tuple[str, str, str], _Series] = {}

    async def record(
        self,
        regarding: Object,
        *,
        kind: Literal["Normal", "Warning"],
        reason: str,
        action: str,
        note: str,
    ) -> None:
        """Record one event.

        Args:
            regarding: the LLMDeployment.
            kind: Normal or Warning.
            reason: why, in one CamelCase word.
            action: what the operator was doing.
            note: what a person should know.
        """
        metadata = regarding["metadata"]
        key = (metadata["uid"], reason, note)
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        try:
            if known := self._series.get(key):
                await self._repeat(key, known, now)
                return
            event: Object = {
                "apiVersion": EVENT.api_version,
                "kind": EVENT.kind,
                "metadata": {
                    "namespace": metadata["namespace"],
                    "name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}",
                },
                "eventTime": now,
                "type": kind,
                "reason": reason,
                "action": action,
                "note": note.encode()[:NOTE_LIMIT].decode(errors="ignore"),
                "reportingController": self._controller,
                "reportingInstance": self._instance,
                "regarding": {
                    "apiVersion": regarding["apiVersion"],
                    "kind": regarding["kind"],
                    "namespace": metadata["namespace"],
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                    "resourceVersion": metadata["resourceVersion"],
                },
            }
            await self._client.create(EVENT, event)
        except (KubeError, FencedError) as error:
            log.warning("an event was lost: %s", error, extra={"reason": reason})
            self._series.pop(key, None)
            return
        if len(self._series) >= REMEMBERED:
            self._series.pop(next(iter(self._series)))
        self._series[key] = _Series(
            metadata["namespace"], event["metadata"]["name"], 1, time.monotonic()
        )

    async def _repeat(self, key: tuple[str, str, str], known: _Series, now: str) -> None:
        """Count an event that came again; the API server hears of it at most every few minutes."""
        times, due = known.times + 1, known.told_at + SERIES_INTERVAL_SECONDS
        if time.monotonic() < due:
            self._series[key] = known._replace(times=times)
            return
        series = {"series": {"count": times, "lastObservedTime": now}}
        namespace = known.namespace
        await self._client.merge(EVENT, namespace, known.name, series, manager=self._controller)
        self._series[key] = known._replace(times=times, told_at=time.monotonic())
