"""From what is observed to the status. Pure: same observation, same status."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pagoda.api import conditions as reasons
from pagoda.api.conditions import ConditionType, Reason, Status
from pagoda.api.status import Condition, LLMDeploymentStatus, Rendering
from pagoda.controller.cause import WORKLOAD_REASON, Counts, Observation, count, find_cause
from pagoda.controller.diagnosis import Finding, same_but_for_numbers
from pagoda.controller.routes import Routes, observe_routes
from pagoda.controller.scaling import Scaling, observe_scaling
from pagoda.render.objects import SELECTOR_LABEL, Object
from pagoda.render.plan import Plan

# In these a replica may be stopping because it was told to.
SHRINKING = (
    reasons.READY,
    *reasons.OVERLOADED,
    reasons.SCALING,
    reasons.ROLLING_OUT,
    reasons.SCALED_TO_ZERO,
    reasons.SUSPENDED,
)


def observe(seen: Observation, now: str) -> dict[str, Any]:
    """Compute the whole status.

    Args:
        seen: the observation.
        now: the time as RFC 3339, for conditions that change.

    Returns:
        The status as it is applied: complete, without empty fields.
    """
    previous = previous_status(seen.parent)
    metadata = seen.parent["metadata"]
    revision = seen.plan.choice.revision if seen.plan else previous.revision
    counts = count(seen, previous, revision)
    finding = find_cause(seen, previous, revision, counts)
    details = {"ready": counts.serving, "desired": counts.desired} | finding.details
    generation = int(metadata["generation"])
    routes = _routes(seen, previous)
    scaling = _scaling(seen, previous, counts, now)
    ready = f"{counts.serving}/{0 if counts.is_suspended else counts.desired}"
    message = finding.reason.explain(**details) + _draining(finding.reason, counts)
    last = _ready(previous)
    if (
        last
        and previous.ready == ready
        and _says_the_same(finding.reason, message, last, generation)
    ):
        message = last.message
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
            finding, message, counts, seen, routes, scaling
        ).items()
    ]
    plan = seen.plan
    status = LLMDeploymentStatus(
        observed_generation=generation,
        model=plan.effective.served_name if plan else previous.model,
        engine=plan.effective.profile.name if plan else previous.engine,
        image=plan.image if plan else previous.image,
        url=routes.url,
        addresses=routes.addresses,
        gpus=_gpus(seen),
        replicas=len(counts.current) + len(counts.old),
        ready_replicas=counts.serving,
        desired_replicas=counts.desired,
        selector=f"{SELECTOR_LABEL}={metadata['name']}",
        tokens_per_second=seen.signals.served,
        autoscaling=scaling.status if scaling else None,
        ready=ready,
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


def _says_the_same(reason: Reason, message: str, last: Condition, generation: int) -> bool:
    """Tell whether all that is new in others' words are numbers: every restart of a crash loop
    would write the status otherwise."""
    return (
        reason.is_steady
        and (last.reason, last.observed_generation) == (reason.name, generation)
        and same_but_for_numbers(last.message, message)
    )


def _draining(reason: Reason, counts: Counts) -> str:
    """Say what stops without haste, where nothing worse is to be said."""
    if not counts.draining or reason not in SHRINKING:
        return ""
    if counts.draining == 1:
        return " 1 replica is finishing its requests and then stops."
    return f" {counts.draining} replicas are finishing their requests and then stop."


def _ready(previous: LLMDeploymentStatus) -> Condition | None:
    return next((c for c in previous.conditions or () if c.type == ConditionType.READY), None)


def previous_status(parent: Object) -> LLMDeploymentStatus:
    """Read the last status. One that cannot be read is as good as none: all can be observed again."""
    try:
        return LLMDeploymentStatus.model_validate(parent.get("status") or {})
    except ValidationError:
        return LLMDeploymentStatus()


def _routes(seen: Observation, previous: LLMDeploymentStatus) -> Routes:
    """Judge the routes; where the spec cannot be read, what was known of them stays."""
    if seen.plan is not None:
        return observe_routes(seen.plan, has_service=seen.has_service, ingress=seen.ingress)
    before = next(
        (c for c in previous.conditions or () if c.type == ConditionType.ROUTES_READY), None
    )
    ready: tuple[Status, str, str] = ("Unknown", "InvalidSpec", "The spec cannot be used.")
    if before is not None:
        ready = (before.status, before.reason, before.message)
    return Routes(ready, previous.url, previous.addresses)


def _scaling(
    seen: Observation, previous: LLMDeploymentStatus, counts: Counts, now: str
) -> Scaling | None:
    """Judge the autoscaling; where the spec cannot be read, what was known of it stays."""
    if seen.plan is None:
        return _kept_scaling(previous)
    return observe_scaling(seen.plan, seen.autoscaler, seen.signals, previous, counts.desired, now)


def _kept_scaling(previous: LLMDeploymentStatus) -> Scaling | None:
    kind = ConditionType.AUTOSCALING_ACTIVE
    before = next((c for c in previous.conditions or () if c.type == kind), None)
    if before is None or previous.autoscaling is None:
        return None
    return Scaling((before.status, before.reason, before.message), previous.autoscaling)


def _gpus(seen: Observation) -> int | None:
    """Count the GPUs of pods that hold or ask for some, stopping ones included."""
    if seen.plan is None or seen.plan.effective.gpus is None:
        return None
    holding = [p for p in seen.pods if p["status"].get("phase") not in ("Failed", "Succeeded")]
    return seen.plan.effective.gpus.count * len(holding)


def _conditions(
    finding: Finding,
    message: str,
    counts: Counts,
    seen: Observation,
    routes: Routes,
    scaling: Scaling | None,
) -> dict[ConditionType, tuple[Status, str, str]]:
    reason, serves = finding.reason, counts.serving > 0
    workload: Status = "True" if reason in (reasons.READY, *reasons.OVERLOADED) else "False"
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
        ConditionType.WORKLOAD_READY: (
            workload,
            finding.details.get(WORKLOAD_REASON, reason.name),
            message + note,
        ),
        ConditionType.ROUTES_READY: routes.ready,
    } | ({ConditionType.AUTOSCALING_ACTIVE: scaling.active} if scaling else {})


def _model_ready(reason: Reason, message: str, counts: Counts) -> tuple[Status, str, str]:
    if counts.serving_current:
        return "True", "Loaded", "The model is loaded."
    if reason.concerns_model:
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
