"""Kubernetes Events: one when a state begins, a series when it keeps coming back."""

import datetime
import logging
import uuid
from typing import Literal

from pagoda.kube.client import KubeClient
from pagoda.kube.errors import KubeError
from pagoda.kube.resources import EVENT
from pagoda.render.objects import Object

log = logging.getLogger(__name__)

REMEMBERED = 1000
NOTE_LIMIT = 1000  # the API allows 1024 bytes


class EventRecorder:
    """Writes events.k8s.io/v1 events about LLMDeployments. An event that is lost harms nothing."""

    def __init__(self, client: KubeClient, *, controller: str, instance: str):
        self._client = client
        self._controller = controller
        self._instance = instance
        self._series: dict[tuple[str, str, str], tuple[Object, int]] = {}

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
                event, count = known[0], known[1] + 1
                self._series[key] = (event, count)
                await self._client.merge(
                    EVENT,
                    metadata["namespace"],
                    event["metadata"]["name"],
                    {"series": {"count": count, "lastObservedTime": now}},
                )
                return
            event = {
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
                "note": note[:NOTE_LIMIT],
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
        except KubeError as error:
            log.warning("an event was lost: %s", error, extra={"reason": reason})
            self._series.pop(key, None)
            return
        if len(self._series) >= REMEMBERED:
            self._series.pop(next(iter(self._series)))
        self._series[key] = (event, 1)
