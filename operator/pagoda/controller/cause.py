"""Which reason the status must end in. Pure: same observation, same reason."""

from dataclasses import dataclass, field

from pagoda.api import conditions as reasons
from pagoda.api.conditions import ConditionType
from pagoda.api.status import LLMDeploymentStatus
from pagoda.controller import rollout
from pagoda.controller.diagnosis import (
    NOTHING,
    Evidence,
    Finding,
    deployment_condition,
    diagnose_deployment,
    diagnose_pods,
    is_draining,
    is_leaving,
    is_serving,
)
from pagoda.controller.scaling import NO_SIGNALS, Signals
from pagoda.render.objects import REVISION_LABEL, Object
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
# Of a finding's details: the reason of WorkloadReady where it is another than Ready's.
WORKLOAD_REASON = "workload_reason"


@dataclass(frozen=True)
class Observation:
    """All that status is computed from."""

    parent: Object  # the LLMDeployment, with its previous status
    plan: Plan | None  # None: the spec cannot be rendered
    problem: Finding | None  # what kept us from applying the plan
    deployment: Object | None
    pods: tuple[Object, ...]
    has_service: bool
    moving: Finding | None = None  # the only replica stands on a cordoned node
    evidence: Evidence = NOTHING  # what was asked about the pods
    ingress: Object | None = None
    autoscaler: Object | None = None
    signals: Signals = NO_SIGNALS


@dataclass(frozen=True)
class Counts:
    """Pods by what they do; leaving ones are counted nowhere."""

    desired: int
    is_suspended: bool = False
    current: list[Object] = field(default_factory=list)  # of the revision in force
    old: list[Object] = field(default_factory=list)
    serving_current: int = 0
    serving: int = 0
    draining: int = 0  # told to stop, and finishing what they have


def count(seen: Observation, previous: LLMDeploymentStatus, revision: str | None) -> Counts:
    """Count the pods."""
    staying = [pod for pod in seen.pods if not is_leaving(pod)]
    current = [pod for pod in staying if revision_of(pod) == revision]
    old = [pod for pod in staying if pod not in current]
    return Counts(
        desired=_desired(seen, previous),
        is_suspended=seen.plan is not None and seen.plan.is_suspended,
        current=current,
        old=old,
        serving_current=sum(map(is_serving, current)),
        serving=sum(map(is_serving, staying)),
        draining=sum(map(is_draining, seen.pods)),
    )


def _desired(seen: Observation, previous: LLMDeploymentStatus) -> int:
    if seen.plan is not None and seen.plan.is_suspended:
        kept = suspended_count(seen.deployment)
        last = previous.desired_replicas
        return kept if kept is not None else 1 if last is None else last
    if seen.deployment is not None:
        scale = int(seen.deployment["spec"].get("replicas", 1))
        # Just made again, and the count that it starts from still has to be written.
        is_new = seen.deployment["metadata"].get("generation") == 1
        last = previous.desired_replicas
        fixed = seen.plan is not None and seen.plan.replicas is not None
        return last if is_new and last is not None and not fixed else scale
    if seen.plan is not None and seen.plan.replicas is not None:
        return seen.plan.replicas
    return 1 if previous.desired_replicas is None else previous.desired_replicas


def find_cause(
    seen: Observation, previous: LLMDeploymentStatus, revision: str | None, counts: Counts
) -> Finding:
    """Decide on the reason: what we could not do, then what has been reached, then what hinders."""
    if seen.problem is not None:
        return seen.problem
    if counts.is_suspended:
        return Finding(reasons.SUSPENDED)
    if counts.desired == 0 and not counts.serving:
        return Finding(reasons.SCALED_TO_ZERO)
    hindrance = _find_hindrance(seen, revision)
    if _is_rolled_out(seen, revision, counts):
        complete = counts.serving_current >= counts.desired
        if complete and seen.moving is not None:
            return seen.moving
        if complete and len(counts.current) == counts.desired:
            return _find_overload(seen, counts) or Finding(reasons.READY)
        # Rolled out once, the Deployment stays complete whatever its pods do; for a moment, while its
        # status is behind a change of the count, the last status has to tell.
        was_complete = seen.deployment is not None and rollout.is_complete(seen.deployment)
        if complete or was_complete or _was_ready(previous, revision):
            if hindrance is None or hindrance.reason.is_routine:
                return Finding(reasons.SCALING)
            detail, name = hindrance.explain(), hindrance.reason.name
            return Finding(reasons.DEGRADED, {"detail": detail, WORKLOAD_REASON: name})
    if hindrance is not None and hindrance.reason in OUTLAST_DEADLINE:
        return hindrance
    if _is_past_deadline(seen.deployment):
        # A cause that only a person can end says more than the time that has passed.
        if hindrance is not None and hindrance.reason.stalled == "True":
            return hindrance
        deadline = seen.plan.effective.progress_deadline_seconds if seen.plan else "?"
        detail = hindrance.explain() if hindrance else "The pods' logs tell why."
        return Finding(reasons.PROGRESS_DEADLINE_EXCEEDED, {"deadline": deadline, "detail": detail})
    if counts.old and (hindrance is None or hindrance.reason is reasons.LOADING):
        return Finding(reasons.ROLLING_OUT)
    return hindrance or Finding(reasons.STARTING)


def _find_overload(seen: Observation, counts: Counts) -> Finding | None:
    """Find that there is too much to do, unless the count is about to follow."""
    scaling = seen.plan.autoscaling if seen.plan else None
    if scaling and scaling.mode != "Shadow" and counts.desired < scaling.max_replicas:
        return None
    overload = seen.signals.overload
    return Finding(overload) if overload else None


def _find_hindrance(seen: Observation, revision: str | None) -> Finding | None:
    """Find what keeps replicas of the revision in force from serving.

    Those of an older one are on their way out; what ails them hinders nothing.
    """
    current = [pod for pod in seen.pods if revision_of(pod) == revision]
    finding = diagnose_pods(current, seen.evidence)
    if (finding is None or finding.reason.is_routine) and seen.deployment is not None:
        finding = diagnose_deployment(seen.deployment) or finding
    return rollout.explain(finding, seen.deployment, seen.pods)


def _is_rolled_out(seen: Observation, revision: str | None, counts: Counts) -> bool:
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


def revision_of(pod: Object) -> str | None:
    """Give the revision of a pod."""
    revision: str | None = pod["metadata"].get("labels", {}).get(REVISION_LABEL)
    return revision
