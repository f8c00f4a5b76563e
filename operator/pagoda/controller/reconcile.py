"""One pass over one LLMDeployment: plan, apply, observe, report. Level-triggered: it may run at any
time, any number of times, and does only what is missing."""

import asyncio
import datetime
import logging
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pagoda.api import conditions as reasons
from pagoda.api.v1alpha1 import LLMDeploymentSpec
from pagoda.controller.apply import MANAGER, Applier, Change, ResourceConflictError
from pagoda.controller.cache import ObjectCache
from pagoda.controller.diagnosis import Finding, shorten
from pagoda.controller.queue import Key
from pagoda.controller.status import Observation, observe, same_status
from pagoda.kube.client import KubeClient
from pagoda.kube.errors import NotFoundError, RejectedError
from pagoda.kube.events import EventRecorder
from pagoda.kube.resources import (
    CONTROLLER_REVISION,
    DEPLOYMENT,
    LLMDEPLOYMENT,
    SERVICE,
    resource_of,
)
from pagoda.render.effective import SpecError
from pagoda.render.objects import Object, Owner
from pagoda.render.plan import Facts, Plan, desired

log = logging.getLogger(__name__)

# The first status waits this long for the pods to appear, so that a new resource costs two status
# writes (starting, ready) and not one per step of the controllers behind the Deployment.
FIRST_STATUS_SECONDS = 1.0


class StalledError(Exception):
    """The pass ended in a state that trying again soon will not change."""


class Reconciler:
    """Makes the cluster fit one LLMDeployment at a time."""

    def __init__(
        self,
        client: KubeClient,
        cache: ObjectCache,
        recorder: EventRecorder,
        *,
        default_images: Mapping[str, str],
    ):
        self._client = client
        self._cache = cache
        self._recorder = recorder
        self._applier = Applier(client, cache)
        self._default_images = default_images
        self._first_pass: dict[str, float] = {}  # uid → when, until the first status is written

    async def reconcile(self, key: Key) -> float | None:
        """Do one pass.

        Returns:
            Seconds until the next pass is due without any event, or None.

        Raises:
            StalledError: a person must act; try again rarely.
            KubeError: the API server refused or was not reached; try again.
        """
        parent = self._cache.parent(key)
        if parent is None or parent["metadata"].get("deletionTimestamp"):
            self._applier.forget(key)  # the children go by garbage collection
            return None
        owner = _owner(parent)
        plan, problem = self._plan(key, owner, parent)
        if plan is not None:
            try:
                await self._apply(key, plan, parent)
            except ResourceConflictError as error:
                problem = Finding(reasons.RESOURCE_CONFLICT, {"detail": f"{error}."})
            except RejectedError as error:
                if "because it is being terminated" in error.message:
                    return None  # the namespace is going, and everything in it
                problem = Finding(reasons.INVALID_SPEC, {"detail": shorten(error.message)})
        wait = await self._report(key, owner, parent, plan, problem)
        if problem is not None:
            raise StalledError(problem.reason.name)
        return wait

    def _plan(self, key: Key, owner: Owner, parent: Object) -> tuple[Plan | None, Finding | None]:
        owned = self._cache.owned(key, owner.uid)
        facts = Facts(
            default_images=self._default_images,
            controller_revisions={
                name: obj for (kind, name), obj in owned.items() if kind == CONTROLLER_REVISION
            },
            live_deployment=owned.get((DEPLOYMENT, owner.name)),
        )
        try:
            return desired(owner, LLMDeploymentSpec.model_validate(parent["spec"]), facts), None
        except ValidationError as error:
            detail = "; ".join(
                f"spec.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()
            )
        except SpecError as error:
            detail = str(error)
        return None, Finding(reasons.INVALID_SPEC, {"detail": detail})

    async def _apply(self, key: Key, plan: Plan, parent: Object) -> None:
        owned = self._cache.owned(key, plan.owner.uid)

        async def compare(wanted: Object) -> tuple[Object | None, Change | None]:
            entry = resource_of(wanted), wanted["metadata"]["name"]
            live = owned.get(entry) or await self._applier.find(wanted)
            return live, await self._applier.compare(wanted, live)

        # All names are looked up and all changes rehearsed before the first is made: a conflict or
        # a child that the API server refuses leaves nothing half done.
        compared = await asyncio.gather(*map(compare, plan.objects))
        changes = [change for _, change in compared if change is not None]
        if len(changes) > 1:
            await asyncio.gather(
                *(self._applier.rehearse(change) for change in changes if not change.is_drift)
            )
        for live, change in compared:
            if change is None and live is not None and live["kind"] == DEPLOYMENT.kind:
                await self._set_replicas(plan, live)
            elif change is not None and change.resource == DEPLOYMENT:
                await self._write_deployment(plan, parent, change)
            elif change is not None:
                await self._applier.write(change)
        wanted_entries = {(resource_of(o), o["metadata"]["name"]) for o in plan.objects}
        for entry in owned.keys() - wanted_entries:
            await self._applier.delete(owned[entry])

    async def _write_deployment(self, plan: Plan, parent: Object, change: Change) -> None:
        """Write the Deployment; a new one starts from the count in the spec, or the last one."""
        if change.live is not None:
            await self._set_replicas(plan, await self._applier.write(change))
            return
        count = plan.replicas
        if count is None:
            count = parent.get("status", {}).get("desiredReplicas")
        if count == 0:
            await self._applier.create_scaled_to_zero(change)
            return
        created = await self._applier.write(change)
        if count is not None:
            await self._applier.ensure_replicas(created, count)

    async def _set_replicas(self, plan: Plan, deployment: Object) -> None:
        """Apply a fixed count; otherwise whoever scales the Deployment is left alone."""
        if plan.replicas is not None:
            await self._applier.ensure_replicas(deployment, plan.replicas)

    async def _report(
        self, key: Key, owner: Owner, parent: Object, plan: Plan | None, problem: Finding | None
    ) -> float | None:
        owned = self._cache.owned(key, owner.uid)
        seen = Observation(
            parent=parent,
            plan=plan,
            problem=problem,
            deployment=owned.get((DEPLOYMENT, owner.name)),
            pods=tuple(self._cache.pods(key)),
            has_service=(SERVICE, owner.name) in owned,
        )
        wanted = observe(seen, _now())
        live = parent.get("status") or {}
        if same_status(live, wanted):
            return None
        if problem is None and not live and (wait := self._hold_back(owner.uid, wanted)):
            return wait
        try:
            answer = await self._client.apply(
                LLMDEPLOYMENT,
                {
                    "apiVersion": LLMDEPLOYMENT.api_version,
                    "kind": LLMDEPLOYMENT.kind,
                    "metadata": {"name": owner.name, "namespace": owner.namespace},
                    "status": wanted,
                },
                manager=MANAGER,
                subresource="status",
            )
        except NotFoundError:
            self._cache.forget(parent)  # deleted in a gap of the watch
            return None
        self._first_pass.pop(owner.uid, None)
        self._cache.absorb(None, answer)
        await self._tell(parent, live, wanted)
        return None

    def _hold_back(self, uid: str, wanted: dict[str, Any]) -> float | None:
        if wanted["replicas"] == wanted["desiredReplicas"]:
            return None
        now = asyncio.get_running_loop().time()
        passed = now - self._first_pass.setdefault(uid, now)
        return FIRST_STATUS_SECONDS - passed if passed < FIRST_STATUS_SECONDS else None

    async def _tell(self, parent: Object, live: Object, wanted: dict[str, Any]) -> None:
        """Log and record an event when the reason changed."""
        before, after = live.get("reason"), wanted["reason"]
        if before == after:
            return
        ready = next(c for c in wanted["conditions"] if c["type"] == "Ready")
        log.info("%s -> %s", before, after, extra={"status_message": ready["message"]})
        fine = ready["status"] == "True" or after in _UNEVENTFUL
        await self._recorder.record(
            parent,
            kind="Normal" if fine else "Warning",
            reason=after,
            action="Reconcile",
            note=ready["message"],
        )


_UNEVENTFUL = {
    reason.name for reason in (reasons.STARTING, reasons.ROLLING_OUT, reasons.SCALED_TO_ZERO)
}


def _owner(parent: Object) -> Owner:
    metadata = parent["metadata"]
    return Owner(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata["generation"],
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
