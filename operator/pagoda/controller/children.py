"""The apply step of a pass: what of the plan is missing is written, what is superfluous deleted."""

import asyncio
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence

from pagoda.controller.apply import Applier, Change
from pagoda.controller.cache import ObjectCache
from pagoda.controller.queue import Key
from pagoda.kube.client import KubeClient
from pagoda.kube.resources import DEPLOYMENT, SERVICE_ACCOUNT, Resource, resource_of
from pagoda.render.objects import REVISION_LABEL, Object
from pagoda.render.plan import Plan

# Parts of a spec for which the CRD vouches: every value that it lets through makes children that the
# API server takes. The others carry words which only the API server can judge.
VOUCHED = frozenset({"model", "replicas", "rollout", "suspend"})


class Children:
    """The objects made for LLMDeployments."""

    def __init__(self, client: KubeClient, cache: ObjectCache):
        self._cache = cache
        self._applier = Applier(client, cache)

    async def apply(self, key: Key, plan: Plan, parent: Object) -> bool:
        """Make the children as planned; tells whether anything was written."""
        owned = self._cache.owned(key, plan.owner.uid)

        async def compare(wanted: Object) -> tuple[Object | None, Change | None]:
            entry = resource_of(wanted), wanted["metadata"]["name"]
            live = owned.get(entry) or await self._applier.find(wanted)
            return live, await self._applier.compare(wanted, live)

        # All names are looked up and all changes rehearsed before the first is made: a conflict or
        # a child that the API server refuses leaves nothing half done.
        compared = await asyncio.gather(*map(compare, plan.objects))
        changes = [change for _, change in compared if change is not None]
        if len(changes) > 1 and _may_be_refused(parent, compared):
            await asyncio.gather(
                *(self._applier.rehearse(change) for change in changes if not change.is_drift)
            )
        # The Deployment comes last: its pods need the ServiceAccount, and are not to run unless
        # everything around them is there.
        others = [change for change in changes if change.resource != DEPLOYMENT]
        await _all(self._applier.write(change) for change in others)
        wrote = bool(changes)
        for live, change in compared:
            if change is None and live is not None and live["kind"] == DEPLOYMENT.kind:
                count = _count_to_apply(plan, parent, live)
                wrote |= await self._applier.ensure_replicas(live, count)
            elif change is not None and change.resource == DEPLOYMENT:
                await self._write_deployment(plan, parent, change)
        for obj in self._superfluous(key, plan, owned):
            await self._applier.delete(obj)
            wrote = True
        return wrote

    async def mark_successor(self, key: Key, plan: Plan, pod: str) -> None:
        """Make the Deployment replace a pod; `""` takes it back."""
        live = self._cache.owned(key, plan.owner.uid).get((DEPLOYMENT, plan.owner.name))
        if live is not None:
            await self._applier.mark_successor(live, pod)

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a deleted LLMDeployment's children."""
        self._applier.forget(key)

    async def _write_deployment(self, plan: Plan, parent: Object, change: Change) -> None:
        count, live = _count_to_apply(plan, parent, change.live), change.live
        if count == 0 and (live is None or live["spec"].get("replicas") == 0):
            live = live or await self._applier.create_scaled_to_zero(change)
            await self._applier.own_replicas(live, 0)
        elif live is not None and plan.resumed_replicas is not None:
            # Before the mark of the suspension goes, or a pass that is cut off would forget it.
            await self._applier.ensure_replicas(live, count)
            count = None  # said once: a scaler that sees it may have gone on already
        written = await self._applier.write(change)
        await self._applier.ensure_replicas(written, count)

    def _superfluous(
        self, key: Key, plan: Plan, owned: Mapping[tuple[Resource, str], Object]
    ) -> Iterator[Object]:
        """List children that the plan no longer has and nobody uses any more."""
        wanted = {(resource_of(o), o["metadata"]["name"]) for o in plan.objects}
        revisions = {
            pod["metadata"].get("labels", {}).get(REVISION_LABEL) for pod in self._cache.pods(key)
        }
        for entry in owned.keys() - wanted:
            if entry[0] == SERVICE_ACCOUNT and (
                entry[1] == plan.effective.service_account
                or revisions - {plan.choice.revision}  # old pods, which may have to be made again
            ):
                continue
            yield owned[entry]


def _may_be_refused(
    parent: Object, compared: Sequence[tuple[Object | None, Change | None]]
) -> bool:
    """Tell whether the children need a rehearsal, which costs as much as writing them."""
    is_new = all(live is None for live, _ in compared)
    return not is_new or bool(parent["spec"].keys() - VOUCHED)


async def _all(writes: Iterable[Awaitable[object]]) -> None:
    """Let all writes end, also when one fails; raises the first one's error."""
    for result in await asyncio.gather(*writes, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _count_to_apply(plan: Plan, parent: Object, live: Object | None) -> int | None:
    """Decide on the count, where it is ours to say.

    Fixed: always. Resumed: the count from before the suspension. Not set: a Deployment that is made
    (again) starts from the last count, within the bounds of its autoscaling, also when its first
    count could not be written at once; one that somebody has touched since (its generation counts
    edits of the spec) is left to whoever scales it.
    """
    if plan.replicas is not None:
        return plan.replicas
    if plan.resumed_replicas is not None:
        return plan.resumed_replicas
    if live is None or live["metadata"].get("generation") == 1:
        return plan.start_count((parent.get("status") or {}).get("desiredReplicas"))
    return None
