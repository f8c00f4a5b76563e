"""From what is observed to the status. Pure: same observation, same status."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from pagoda.api import conditions as reasons
from pagoda.api.conditions import ConditionType, Reason, Status
from pagoda.api.status import Address, Condition, LLMDeploymentStatus, Rendering
from pagoda.controller import rollout
from pagoda.controller.diagnosis import (
    Finding,
    deployment_condition,
    diagnose_deployment,
    diagnose_pods,
    is_leaving,
    is_serving,
)
from pagoda.render.objects import REVISION_LABEL, SELECTOR_LABEL, Object
from pagoda.render.plan import Plan
from pagoda.render.suspension import suspended_count

# These wait for capacity or another object, for as long as it takes; a deadline says nothing new.
OUTLAST_DEADLINE = (
    reasons.INSUFFICIENT_GPU,
    reasons.UNSCHEDULABLE,
    reasons.WAITING_FOR_DRAIN,
    reasons.VOLUME_NOT_FOUND,
    reasons.VOLUME_NOT_BOUND,
)


@dataclass(frozen=True)
class Observation:
    """All that status is computed from."""

    parent: Object  # the LLMDeployment, with its previous status
    plan: Plan | None  # None: the spec cannot be rendered
    problem: Finding | None  # what kept us from applying the plan
    deployment: Object | None
    pods: tuple[Object, ...]
    has_service: bool


@dataclass(frozen=True)
class _Counts:
    """Pods by what they do; leaving ones are counted nowhere."""

    desired: int
    is_suspended: bool = False
    current: list[Object] = field(default_factory=list)  # of the revision in force
    old: list[Object] = field(default_factory=list)
    serving_current: int = 0
    serving: int = 0


def observe(seen: Observation, now: str) -> dict[str, Any]:
    """Compute the whole status.

    Args:
        seen: the observation.
        now: the time as RFC 3339, for conditions that change.

    Returns:
        The status as it is applied: complete, without empty fields.
    """
    previous = _previous(seen.parent)
    metadata = seen.parent["metadata"]
    revision = seen.plan.choice.revision if seen.plan else previous.revision
    counts = _count(seen, previous, revision)
    finding = _cause(seen, previous, revision, counts)
    details = {"ready": counts.serving, "desired": counts.desired} | finding.details
    message = finding.reason.explain(**details)
    generation = int(metadata["generation"])
    conditions = [
        Condition(
            type=kind,
            status=status,
            reason=reason,
            message=text,
            observed_generation=generation,
            last_transition_time=_since(previous, kind, status, now),
        )
        for kind, (status, reason, text) in _conditions(
            finding.reason, message, counts, seen
        ).items()
    ]
    plan = seen.plan
    status = LLMDeploymentStatus(
        observed_generation=generation,
        model=plan.effective.served_name if plan else previous.model,
        engine=plan.effective.profile.name if plan else previous.engine,
        image=plan.image if plan else previous.image,
        url=_url(seen, previous),
        addresses=_addresses(seen, previous),
        gpus=_gpus(seen),
        replicas=len(counts.current) + len(counts.old),
        ready_replicas=counts.serving,
        desired_replicas=counts.desired,
        selector=f"{SELECTOR_LABEL}={metadata['name']}",
        ready=f"{counts.serving}/{0 if counts.is_suspended else counts.desired}",
        state=finding.reason.state,
        reason=finding.reason.name,
        revision=revision,
        rendering=_rendering(plan) if plan else previous.rendering,
        conditions=conditions,
    )
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def same_status(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Tell whether the live status already says all we would write. Others' conditions stay."""
    ours = {condition["type"] for condition in wanted["conditions"]}
    fields = {info.alias or name for name, info in LLMDeploymentStatus.model_fields.items()}
    mine = {key: value for key, value in live.items() if key in fields and key != "conditions"}
    conditions = [c for c in live.get("conditions", ()) if c["type"] in ours]
    by_type = {c["type"]: c for c in wanted["conditions"]}
    return (
        mine == {key: value for key, value in wanted.items() if key != "conditions"}
        and {c["type"]: c for c in conditions} == by_type
    )


def _previous(parent: Object) -> LLMDeploymentStatus:
    """Read the last status. One that cannot be read is as good as none: all can be observed again."""
    try:
        return LLMDeploymentStatus.model_validate(parent.get("status") or {})
    except ValidationError:
        return LLMDeploymentStatus()


def _url(seen: Observation, previous: LLMDeploymentStatus) -> str | None:
    """Give the URL of a Service that exists."""
    if not seen.has_service:
        return None
    return seen.plan.url if seen.plan else previous.url


def _addresses(seen: Observation, previous: LLMDeploymentStatus) -> list[Address] | None:
    if not seen.has_service:
        return None
    return [Address(name="internal", url=seen.plan.url)] if seen.plan else previous.addresses


def _gpus(seen: Observation) -> int | None:
    """Count the GPUs of pods that hold or ask for some, stopping ones included."""
    if seen.plan is None or seen.plan.effective.gpus is None:
        return None
    holding = [p for p in seen.pods if p["status"].get("phase") not in ("Failed", "Succeeded")]
    return seen.plan.effective.gpus.count * len(holding)


def _count(seen: Observation, previous: LLMDeploymentStatus, revision: str | None) -> _Counts:
    staying = [pod for pod in seen.pods if not is_leaving(pod)]
    current = [
        p for p in staying if p["metadata"].get("labels", {}).get(REVISION_LABEL) == revision
    ]
    old = [pod for pod in staying if pod not in current]
    return _Counts(
        desired=_desired(seen, previous),
        is_suspended=seen.plan is not None and seen.plan.is_suspended,
        current=current,
        old=old,
        serving_current=sum(map(is_serving, current)),
        serving=sum(map(is_serving, staying)),
    )


def _desired(seen: Observation, previous: LLMDeploymentStatus) -> int:
    if seen.plan is not None and seen.plan.is_suspended:
        kept = suspended_count(seen.deployment)
        last = previous.desired_replicas
        return kept if kept is not None else 1 if last is None else last
    if seen.deployment is not None:
        count = int(seen.deployment["spec"].get("replicas", 1))
        # Just made again, and the count that it starts from still has to be written.
        is_new = seen.deployment["metadata"].get("generation") == 1
        last = previous.desired_replicas
        fixed = seen.plan is not None and seen.plan.replicas is not None
        return last if is_new and last is not None and not fixed else count
    if seen.plan is not None and seen.plan.replicas is not None:
        return seen.plan.replicas
    return 1 if previous.desired_replicas is None else previous.desired_replicas


def _cause(
    seen: Observation, previous: LLMDeploymentStatus, revision: str | None, counts: _Counts
) -> Finding:
    """Decide on the reason: what we could not do, then what has been reached, then what hinders."""
    if seen.problem is not None:
        return seen.problem
    if counts.is_suspended:
        return Finding(reasons.SUSPENDED)
    if counts.desired == 0 and not counts.serving:
        return Finding(reasons.SCALED_TO_ZERO)
    hindrance = diagnose_pods(seen.pods)
    if hindrance is None and seen.deployment is not None:
        hindrance = diagnose_deployment(seen.deployment)
    hindrance = rollout.explain(hindrance, seen.deployment, seen.pods)
    if _is_rolled_out(seen, revision, counts):
        complete = counts.serving_current >= counts.desired
        if complete and len(counts.current) == counts.desired:
            return Finding(reasons.READY)
        if complete or _was_ready(previous, revision):
            if hindrance is None or hindrance.reason is reasons.WAITING_FOR_DRAIN:
                return Finding(reasons.SCALING)
            return Finding(reasons.DEGRADED, {"detail": _message(hindrance)})
    if hindrance is not None and hindrance.reason in OUTLAST_DEADLINE:
        return hindrance
    if _is_past_deadline(seen.deployment):
        deadline = seen.plan.effective.progress_deadline_seconds if seen.plan else "?"
        detail = _message(hindrance) if hindrance else "The pods' logs tell why."
        return Finding(reasons.PROGRESS_DEADLINE_EXCEEDED, {"deadline": deadline, "detail": detail})
    return hindrance or Finding(reasons.ROLLING_OUT if counts.old else reasons.STARTING)


def _is_rolled_out(seen: Observation, revision: str | None, counts: _Counts) -> bool:
    """Tell whether only the revision in force is left, and serves."""
    deployment = seen.deployment
    if deployment is None or counts.old or not counts.serving_current:
        return False
    labels = deployment["spec"]["template"]["metadata"].get("labels", {})
    return bool(labels.get(REVISION_LABEL) == revision)


def _was_ready(previous: LLMDeploymentStatus, revision: str | None) -> bool:
    """Tell whether this revision was ready before: then a missing replica does not change Ready."""
    ready = next((c for c in previous.conditions or () if c.type == ConditionType.READY), None)
    return ready is not None and ready.status == "True" and previous.revision == revision


def _is_past_deadline(deployment: Object | None) -> bool:
    if deployment is None:
        return False
    if (
        deployment.get("status", {}).get("observedGeneration", 0)
        < deployment["metadata"]["generation"]
    ):
        return False
    progressing = deployment_condition(deployment, "Progressing")
    return progressing is not None and progressing.get("reason") == "ProgressDeadlineExceeded"


def _message(finding: Finding) -> str:
    return finding.reason.explain(**finding.details)


def _conditions(
    reason: Reason, message: str, counts: _Counts, seen: Observation
) -> dict[ConditionType, tuple[Status, str, str]]:
    serves = counts.serving > 0
    workload: Status = "True" if reason is reasons.READY else "False"
    overridden = seen.plan.effective.overridden_args if seen.plan else []
    note = (
        f" Of spec.engine.args, ignored: {', '.join(overridden)}; the operator sets them."
        if overridden
        else ""
    )
    return {
        ConditionType.READY: (reason.ready, reason.name, message),
        ConditionType.AVAILABLE: (
            ("True", "ReplicasServe", "At least one replica serves.")
            if serves
            else ("False", "NoReplicaServes", "No replica serves.")
        ),
        ConditionType.RECONCILING: (
            ("True", reason.name, message)
            if reason.reconciling == "True"
            else ("False", "Idle", "Nothing is being changed.")
        ),
        ConditionType.STALLED: (
            ("True", reason.name, message)
            if reason.stalled == "True"
            else ("False", "NotStalled", "Nothing waits for a person.")
        ),
        ConditionType.MODEL_READY: _model_ready(reason, message, counts),
        ConditionType.WORKLOAD_READY: (workload, reason.name, message + note),
        ConditionType.ROUTES_READY: (
            ("True", "ServiceReady", "The Service exists.")
            if seen.has_service
            else ("False", "ServiceMissing", "The Service does not exist yet.")
        ),
    }


def _model_ready(reason: Reason, message: str, counts: _Counts) -> tuple[Status, str, str]:
    if counts.serving_current:
        return "True", "Loaded", "The model is loaded."
    if reason in (reasons.VOLUME_NOT_FOUND, reasons.VOLUME_NOT_BOUND):
        return "False", reason.name, message
    return "Unknown", "NotLoadedYet", "No replica of this revision has loaded the model yet."


def _rendering(plan: Plan) -> Rendering:
    return Rendering(current=plan.choice.revision, available=plan.choice.available)


def _since(previous: LLMDeploymentStatus, kind: str, status: Status, now: str) -> str:
    """Keep the transition time unless the status changes."""
    for condition in previous.conditions or ():
        if condition.type == kind and condition.status == status:
            return condition.last_transition_time
    return now
