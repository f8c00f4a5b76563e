"""One pass over one LLMDeployment: plan, apply, observe, report. Level-triggered: it may run at any
time, any number of times, and does only what is missing."""

import asyncio
import datetime
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pagoda.api import conditions as reasons
from pagoda.api.conditions import REASONS, ConditionType
from pagoda.api.v1alpha1 import LLMDeploymentSpec
from pagoda.controller.apply import MANAGER, ResourceConflictError
from pagoda.controller.cache import ObjectCache, controller_uid
from pagoda.controller.cause import Observation, revision_of
from pagoda.controller.children import Children
from pagoda.controller.cordons import Cordons
from pagoda.controller.diagnosis import NOTHING, Evidence, Finding, shorten
from pagoda.controller.evacuation import NONE, Evacuation, decide
from pagoda.controller.ingress_classes import KEPT_SECONDS, IngressClasses
from pagoda.controller.inquiry import Inquiry
from pagoda.controller.queue import Key
from pagoda.controller.refusal import refusal
from pagoda.controller.replacement import Replacement
from pagoda.controller.scaling import Signals, learned_target
from pagoda.controller.signals import SignalSource
from pagoda.controller.status import observe, same_status
from pagoda.kube.client import KubeClient
from pagoda.kube.errors import ConflictError, KubeError, NotFoundError, RejectedError
from pagoda.kube.events import EventRecorder
from pagoda.kube.resources import (
    AUTOSCALER,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    INGRESS,
    LLMDEPLOYMENT,
    SERVICE,
    Resource,
)
from pagoda.render.autoscaler import NO_SCALING_FACTS, TOLERANCE_SINCE, ScalingFacts
from pagoda.render.effective import Settings, SpecError, spec_hash
from pagoda.render.ingress import UNKNOWN_CLASS, IngressClassFact
from pagoda.render.objects import Object, Owner
from pagoda.render.plan import Facts, Plan, desired
from pagoda.render.pod_patch import PodTemplateError
from pagoda.render.template import controller_revision_name

log = logging.getLogger(__name__)

# The first status waits this long for the pods to appear, so that a new resource costs two status
# writes (starting, ready) and not one per step of the controllers behind the Deployment.
FIRST_STATUS_SECONDS = 1.0
# After a pass that wrote something; short, and long enough for the watch to bring the echo.
LOOK_AGAIN_SECONDS = 0.2


class StalledError(Exception):
    """The pass ended in a state that trying again soon will not change."""


@dataclass(frozen=True)
class _Intent:
    """What a pass is going to do."""

    plan: Plan | None = None  # None: it cannot be rendered, or not now
    evacuation: Evacuation = NONE
    problem: Finding | None = None  # what only a person can change
    failure: KubeError | None = None  # what may be better in a moment
    due: float | None = None  # seconds until it may be another without any event


class Reconciler:
    """Makes the cluster fit one LLMDeployment at a time."""

    def __init__(
        self,
        client: KubeClient,
        cache: ObjectCache,
        recorder: EventRecorder,
        *,
        inquiry: Inquiry,
        cordons: Cordons,
        signals: SignalSource,
        settings: Settings,
        unschedulable_seconds: float,
    ):
        self._client = client
        self._cache = cache
        self._recorder = recorder
        self._children = Children(client, cache)
        self._replacement = Replacement(client, unschedulable_seconds)
        self._inquiry = inquiry
        self._cordons = cordons
        self._signals = signals
        self._patience = unschedulable_seconds
        self._ingress_classes = IngressClasses(client)
        self._settings = settings
        self._first_pass: dict[Key, float] = {}  # when, until the first status is written

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
            self._children.forget(key)  # the children go by garbage collection
            self._replacement.forget(key)
            self._inquiry.forget(key)
            self._signals.forget(key)
            self._first_pass.pop(key, None)
            return None
        owner = _owner(parent)
        intent = await self._intend(key, owner, parent)
        wrote, problem, failure = False, intent.problem, intent.failure
        if intent.plan is not None:
            try:
                wrote = await self._apply(key, intent.plan, intent.evacuation, parent)
            except ResourceConflictError as error:
                problem = Finding(reasons.RESOURCE_CONFLICT, {"detail": f"{error}."})
            except RejectedError as error:
                if "because it is being terminated" in error.message:
                    return None  # the namespace is going, and everything in it
                problem = refusal(error, parent["spec"].get("podTemplate"))
            except KubeError as error:
                failure = error
        if failure is not None and _is_unseen(parent, owner):
            problem = Finding(reasons.NOT_APPLIED_YET, {"detail": shorten(failure.message)})
        # What serves is reported also after a failure: a status that stands still would lie.
        evidence, ask_again = await self._ask(key, parent, intent.plan)
        told, wait = await self._report(key, owner, parent, intent, problem, evidence)
        if failure is not None:
            raise failure
        if problem is not None:
            raise StalledError(problem.reason.name)
        # The answers to our writes go into the cache at once and may bring along an edit of somebody
        # else, whose own event is then no news any more. One more pass looks at what came with them.
        if wrote or told:
            return LOOK_AGAIN_SECONDS
        return _soonest(wait, intent.due, ask_again)

    async def _intend(self, key: Key, owner: Owner, parent: Object) -> _Intent:
        """Render what should exist, or say why that cannot be."""
        owned = self._cache.owned(key, owner.uid)
        live = owned.get((DEPLOYMENT, owner.name))
        try:
            spec = LLMDeploymentSpec.model_validate(parent["spec"])
            pods = self._pods(key, parent)
            rolling, due = await self._replacement.choose(key, spec, live, pods)
            evacuation = self._evacuation(spec, live, pods)
            facts = Facts(
                settings=self._settings,
                pinned=await self._pinned(owner, spec, owned, parent),
                live_deployment=live,
                rolling=rolling,
                holds_last=self._cordons.visible and not evacuation.gives_way,
                ingress_class=await self._ingress_class(spec),
                scaling=await self._scaling(key, spec),
            )
            plan = desired(owner, spec, facts)
        except ValidationError as error:
            detail = "; ".join(
                f"spec.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()
            )
            return _Intent(problem=Finding(reasons.INVALID_SPEC, {"detail": detail}))
        except PodTemplateError as error:
            return _Intent(problem=Finding(reasons.POD_TEMPLATE_INVALID, {"detail": str(error)}))
        except SpecError as error:
            return _Intent(problem=Finding(reasons.INVALID_SPEC, {"detail": str(error)}))
        except KubeError as error:
            return _Intent(failure=error)
        classes_due = KEPT_SECONDS if plan.ingress_class.is_missing else None  # not watched
        return _Intent(plan, evacuation, due=_soonest(due, evacuation.due, classes_due))

    def _evacuation(
        self, spec: LLMDeploymentSpec, live: Object | None, pods: tuple[Object, ...]
    ) -> Evacuation:
        is_one = live is not None and live["spec"].get("replicas") == 1
        strategy = spec.rollout and spec.rollout.strategy
        if live is None or not is_one or strategy == "Replace" or not self._cordons.visible:
            return NONE
        now = datetime.datetime.now(datetime.UTC)
        return decide(live, pods, self._cordons, now, self._patience)

    async def _apply(self, key: Key, plan: Plan, evacuation: Evacuation, parent: Object) -> bool:
        """Write what is missing; tells whether anything was."""
        wrote = await self._children.apply(key, plan, parent)
        if evacuation.mark is not None:
            await self._children.mark_successor(key, plan, evacuation.mark)
            wrote = True
        return wrote

    async def _ingress_class(self, spec: LLMDeploymentSpec) -> IngressClassFact:
        if spec.expose is None or spec.expose.ingress is None:
            return UNKNOWN_CLASS
        return await self._ingress_classes.find(spec.expose.ingress.class_name)

    async def _scaling(self, key: Key, spec: LLMDeploymentSpec) -> ScalingFacts:
        if spec.autoscaling is None:
            return NO_SCALING_FACTS
        return ScalingFacts(
            learned_target=learned_target(self._signals.of(key)),
            has_tolerance=await self._client.version() >= TOLERANCE_SINCE,
        )

    async def _pinned(
        self,
        owner: Owner,
        spec: LLMDeploymentSpec,
        owned: Mapping[tuple[Resource, str], Object],
        parent: Object,
    ) -> Object | None:
        """Find the template kept for this spec, also if it lost our label and left the watch."""
        name = controller_revision_name(owner, spec_hash(spec))
        if (known := owned.get((CONTROLLER_REVISION, name))) is not None:
            return known
        if not parent.get("status"):
            return None  # nothing was made for it yet
        try:
            found = await self._client.get(CONTROLLER_REVISION, owner.namespace, name)
        except NotFoundError:
            return None
        return found if controller_uid(found) == owner.uid else None

    async def _ask(
        self, key: Key, parent: Object, plan: Plan | None
    ) -> tuple[Evidence, float | None]:
        """Find out what the pods do not tell; and when to ask again."""
        if plan is None:
            return NOTHING, None
        revision = plan.choice.revision
        pods = self._pods(key, parent)
        return await self._inquiry.ask(key, [pod for pod in pods if revision_of(pod) == revision])

    async def _report(
        self,
        key: Key,
        owner: Owner,
        parent: Object,
        intent: _Intent,
        problem: Finding | None,
        evidence: Evidence,
    ) -> tuple[bool, float | None]:
        """Write the status if it changed.

        Returns:
            Whether it was written, and else the seconds after which it should be tried again.
        """
        owned = self._cache.owned(key, owner.uid)
        deployment = owned.get((DEPLOYMENT, owner.name))
        seen = Observation(
            parent=parent,
            plan=intent.plan,
            problem=problem,
            moving=intent.evacuation.finding,
            deployment=deployment,
            pods=self._pods(key, parent),
            has_service=(SERVICE, owner.name) in owned,
            evidence=evidence,
            ingress=owned.get((INGRESS, owner.name)),
            autoscaler=owned.get((AUTOSCALER, owner.name)),
            signals=await self._signals_of(key, parent, deployment),
        )
        wanted = observe(seen, _now())
        live = parent.get("status") or {}
        if same_status(live, wanted):
            return False, None
        if problem is None and not live and (wait := self._hold_back(key, wanted)):
            return False, wait
        metadata = {"name": owner.name, "namespace": owner.namespace, "uid": owner.uid}
        try:
            answer = await self._client.apply(
                LLMDEPLOYMENT,
                {
                    "apiVersion": LLMDEPLOYMENT.api_version,
                    "kind": LLMDEPLOYMENT.kind,
                    "metadata": metadata,
                    "status": wanted,
                },
                manager=MANAGER,
                subresource="status",
            )
        except (NotFoundError, ConflictError):
            self._cache.forget(parent)  # deleted in a gap of the watch, or another one by now
            return False, None
        self._first_pass.pop(key, None)
        self._cache.absorb(None, answer)
        await self._tell(parent, live, wanted)
        return True, None

    async def _signals_of(self, key: Key, parent: Object, deployment: Object | None) -> Signals:
        """Give what status tells of the load; where the count has changed, what has caused it."""
        last = (parent.get("status") or {}).get("desiredReplicas")
        if deployment is None or last is None or not parent["spec"].get("autoscaling"):
            return self._signals.of(key)
        has_changed = deployment["spec"].get("replicas") != last
        return await self._signals.now(key) if has_changed else self._signals.of(key)

    def _pods(self, key: Key, parent: Object) -> tuple[Object, ...]:
        return tuple(pod for pod in self._cache.pods(key) if not _is_older(pod, parent))

    def _hold_back(self, key: Key, wanted: dict[str, Any]) -> float | None:
        if wanted["replicas"] == wanted["desiredReplicas"]:
            return None
        now = asyncio.get_running_loop().time()
        passed = now - self._first_pass.setdefault(key, now)
        return FIRST_STATUS_SECONDS - passed if passed < FIRST_STATUS_SECONDS else None

    async def _tell(self, parent: Object, live: Object, wanted: dict[str, Any]) -> None:
        """Log and record an event when the reason changed."""
        before, after = _told(live), _told(wanted)
        if before == after:
            return
        ready = next(c for c in wanted["conditions"] if c["type"] == ConditionType.READY)
        log.info("%s -> %s", before, after, extra={"status_message": ready["message"]})
        await self._recorder.record(
            parent,
            kind="Normal" if after in _UNEVENTFUL else "Warning",
            reason=after or "Unknown",
            action="Reconcile",
            note=ready["message"],
        )


def _told(status: Object) -> str | None:
    """Give what an event tells: of a replica that fails beside others that serve, why."""
    reason: str | None = status.get("reason")
    if reason != reasons.DEGRADED.name:
        return reason
    conditions = status.get("conditions", ())
    return next(
        (c["reason"] for c in conditions if c["type"] == ConditionType.WORKLOAD_READY), None
    )


# What is part of normal life or was asked for; a replacement in place is an outage all the same.
_UNEVENTFUL = {
    reason.name
    for reason in REASONS
    if reason in (reasons.SCALED_TO_ZERO, reasons.SUSPENDED)
    or (reason.is_routine and reason not in (reasons.REPLACING_IN_PLACE, reasons.DEGRADED))
}


def _is_unseen(parent: Object, owner: Owner) -> bool:
    """Tell whether the status is of another generation of the spec."""
    return (parent.get("status") or {}).get("observedGeneration") != owner.generation


def _soonest(*seconds: float | None) -> float | None:
    return min((s for s in seconds if s is not None), default=None)


def _is_older(pod: Object, parent: Object) -> bool:
    """Tell whether a pod is of a deleted LLMDeployment of the same name."""
    born: str = pod["metadata"].get("creationTimestamp", "")
    return bool(born and born < parent["metadata"].get("creationTimestamp", ""))


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
