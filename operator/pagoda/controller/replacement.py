"""Which roll-out strategy a Deployment gets in this pass: `pagoda.controller.rollout` with its facts.

Nodes and what runs on them are read only when a pod has waited long enough, so a fleet of nodes is
not watched.
"""

import asyncio
import datetime
from collections.abc import Iterable, Sequence

from pagoda.api.v1alpha1 import LLMDeploymentSpec
from pagoda.controller import rollout
from pagoda.controller.queue import Key
from pagoda.controller.room import NodeRoom
from pagoda.kube.client import KubeClient
from pagoda.kube.errors import NotFoundError, RejectedError
from pagoda.kube.resources import NODE, POD
from pagoda.render.deployment import REPLACE, SURGE, RollingUpdate
from pagoda.render.effective import spec_hash
from pagoda.render.objects import Object

# A pod that no old pod's end would help is looked at again after so many times the patience.
RECHECK = 3


class Replacement:
    """Chooses between an extra pod and a replacement in place."""

    def __init__(self, client: KubeClient, patience: float):
        self._client = client
        self._patience = patience
        # Since when a pod of ours has been leaving, or none has. The room of one that is gone has
        # to be offered to the scheduler first. Forgotten in a restart, it is only waited for again.
        self._since: dict[Key, tuple[bool, datetime.datetime]] = {}

    async def choose(
        self,
        key: Key,
        spec: LLMDeploymentSpec,
        live: Object | None,
        pods: Sequence[Object],
    ) -> tuple[RollingUpdate, float | None]:
        """Choose.

        Args:
            key: the LLMDeployment.
            spec: the spec that is about to be applied.
            live: the Deployment as it is.
            pods: all pods behind it.

        Returns:
            The strategy, and the seconds after which to look again.
        """
        now = datetime.datetime.now(datetime.UTC)
        quiet = self._quiet(key, rollout.is_any_leaving(pods, now, self._patience), now)
        strategy = (spec.rollout and spec.rollout.strategy) or "Auto"
        answer = rollout.settled(strategy, spec_hash(spec), live)
        if answer is not None or live is None:
            return answer or SURGE, None
        stuck = rollout.stuck(live, pods, now, self._patience)
        if stuck is None:
            return SURGE, None
        waited = (now - max(stuck.since, quiet)).total_seconds()
        if waited < self._patience:
            return SURGE, self._patience - waited
        if stuck.is_helped(await self._rooms(stuck.nodes)):
            return REPLACE, None
        return SURGE, RECHECK * self._patience

    def forget(self, key: Key) -> None:
        """Drop the memory of a deleted LLMDeployment."""
        self._since.pop(key, None)

    def _quiet(self, key: Key, leaving: bool, now: datetime.datetime) -> datetime.datetime:
        before, since = self._since.get(key, (None, now))
        if before != leaving:
            since = now
        self._since[key] = leaving, since
        return since

    async def _rooms(self, names: Iterable[str]) -> dict[str, NodeRoom] | None:
        try:
            rooms = await asyncio.gather(*map(self._room, names))
        except RejectedError as error:
            if error.status == 403:
                return None  # an operator of single namespaces sees no nodes
            raise
        return {room.node["metadata"]["name"]: room for room in rooms if room is not None}

    async def _room(self, name: str) -> NodeRoom | None:
        try:
            node = await self._client.get(NODE, None, name)
        except NotFoundError:
            return None
        pods = await self._client.list(POD, field_selector=f"spec.nodeName={name}")
        return NodeRoom.of(node, pods)
