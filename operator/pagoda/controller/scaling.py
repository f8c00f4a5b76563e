"""What status says about autoscaling, and which target is in force. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pagoda.api.autoscaling import Autoscaling, AutoscalingStatus, Capacity, ScalingDecision
from pagoda.api.conditions import Reason, Status
from pagoda.api.status import LLMDeploymentStatus
from pagoda.render import autoscaler
from pagoda.render.autoscaler import averages, min_replicas
from pagoda.render.objects import Object
from pagoda.render.plan import Plan

KEPT_DECISIONS = 5
# Value and average per replica; the values are sums over all replicas.
_TEXTS = {
    autoscaler.DEMAND: "{:.0f} tokens/s of demand, {:g} per replica",
    autoscaler.BACKLOG: "{:.1f} s of work waiting, {:g} per replica",
    autoscaler.WAITING: "{:.0f} requests waiting, {:g} per replica",
    autoscaler.KV_USAGE: "{:.0%} of one replica's KV cache in use, {:.0%} per replica",
}

Source = Literal["Serving", "Missing", "Foreign", "Failing", "Unknown"]


@dataclass(frozen=True)
class Signals:
    """What the metrics server says about one LLMDeployment; before it has, what status told last.

    Attributes:
        source: whether it can be asked: Foreign where another server owns the metrics API.
        detail: why not, in its words or the API server's.
        values: by metric name; what is unknown is missing.
        served: output-equivalent tokens/s, rounded so that it does not change with every look.
        overload: how it showed of late that there is too much to do; None: it did not,
            or it is not known.
        capacity: what one replica was measured to serve at most.
    """

    source: Source = "Unknown"
    detail: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    served: int | None = None
    overload: Reason | None = None
    capacity: Capacity | None = None


NO_SIGNALS = Signals()


@dataclass(frozen=True)
class Scaling:
    """The part of the status that is about autoscaling."""

    active: tuple[Status, str, str]
    """Status, reason and message of AutoscalingActive."""
    status: AutoscalingStatus


def learned_target(signals: Signals) -> int | None:
    """Give the target from measured capacity."""
    known = signals.capacity
    return autoscaler.learned_target(known.tokens_per_second) if known else None


def observe_scaling(
    plan: Plan,
    hpa: Object | None,
    signals: Signals,
    previous: LLMDeploymentStatus,
    desired: int,
    now: str,
) -> Scaling | None:
    """Judge the autoscaling of a plan; None where the count does not follow the load.

    Args:
        plan: what should exist.
        hpa: the HorizontalPodAutoscaler as it is, with what its controller wrote into the status.
        signals: the latest.
        previous: the last status.
        desired: the count that is wanted now.
        now: the time as RFC 3339.
    """
    scaling = plan.autoscaling
    if scaling is None:
        return None
    before = previous.autoscaling or AutoscalingStatus()
    wishes = _wishes(plan, signals)
    if scaling.mode == "Shadow":
        last, count = before.desired_replicas, _recommended(scaling, wishes)
        count = before.desired_replicas if count is None else count
    else:
        last, count = previous.desired_replicas, desired
    decisions = before.decisions or []
    if not plan.is_suspended and None not in (last, count) and last != count:
        assert last is not None
        assert count is not None
        made = ScalingDecision(
            time=now, from_replicas=last, to_replicas=count, reason=_reason(scaling, wishes, count)
        )
        decisions = [made, *decisions][:KEPT_DECISIONS]
    given = scaling.target_tokens_per_second is not None
    return Scaling(
        active=_active(plan, scaling, hpa, signals),
        status=AutoscalingStatus(
            source="Given" if given else "Unknown" if plan.scaling_target is None else "Learned",
            target_tokens_per_second=plan.scaling_target,
            capacity=signals.capacity,
            desired_replicas=count,
            decisions=decisions or None,
        ),
    )


@dataclass(frozen=True)
class _Wish:
    """What one metric asks for."""

    replicas: int
    reason: str


def _wishes(plan: Plan, signals: Signals) -> list[_Wish]:
    """Compute what the HPA computes: the value divided by the target, rounded up."""
    wishes = []
    for name, average in averages(plan.scaling_target).items():
        if (value := signals.values.get(name)) is not None:
            text = _TEXTS[name].format(value, average)
            wishes.append(_Wish(_ceil(value / average), text))
    return wishes


def _recommended(scaling: Autoscaling, wishes: list[_Wish]) -> int | None:
    if not wishes:
        return None
    most = max(wish.replicas for wish in wishes)
    return max(min_replicas(scaling), min(most, scaling.max_replicas))


def _reason(scaling: Autoscaling, wishes: list[_Wish], count: int) -> str:
    if not wishes:
        return "The metrics are not known here."
    most = max(wishes, key=lambda wish: wish.replicas)
    bound = ""
    if count == scaling.max_replicas < most.replicas:
        bound = f"; it would take {most.replicas}, spec.autoscaling.maxReplicas allows {count}"
    elif count == min_replicas(scaling) > most.replicas:
        bound = f"; spec.autoscaling.minReplicas is {count}"
    return most.reason + bound


def _active(
    plan: Plan, scaling: Autoscaling, hpa: Object | None, signals: Signals
) -> tuple[Status, str, str]:
    if scaling.mode == "Shadow":
        return "False", "Shadow", "Nothing is scaled: status.autoscaling shows what would be."
    if plan.is_suspended:
        return "False", "Suspended", "While suspended nothing is scaled."
    if signals.source == "Foreign":
        text = (
            f"Another server owns the custom metrics API of this cluster ({signals.detail}), so the "
            "count stays as it is. Remove it, or set spec.replicas."
        )
        return "False", "MetricsAPIOwnedByOther", text
    found = {c["type"]: c for c in (hpa or {}).get("status", {}).get("conditions", ())}
    able, active = found.get("AbleToScale"), found.get("ScalingActive")
    if able is not None and able["status"] == "False":
        return "False", able["reason"], able["message"]
    if active is None:
        return "Unknown", "Pending", "The HorizontalPodAutoscaler has not been looked at yet."
    if active["status"] != "True":
        if active["reason"] == "ScalingDisabled":
            return (
                "False",
                "ScaledToZero",
                "The count is 0; scale up by hand to have it follow load.",
            )
        if signals.source == "Missing":
            text = (
                "No metrics server of Pagoda answers, so the count stays as it is. Install the chart "
                "with metricsServer.enabled, or see why its pods do not run."
            )
            return "False", "MetricsAPIMissing", text
        text = f"The count stays as it is, since its metrics cannot be read: {active['message']}"
        return "False", "MetricsUnavailable", text
    if plan.scaling_target is None:
        text = (
            "What a replica can serve was not measured yet, so the count follows waiting requests "
            "and the use of the KV cache. To have it follow tokens per second from the start, set "
            "spec.autoscaling.targetTokensPerSecond."
        )
        return "True", "CapacityUnknown", text
    limited = found.get("ScalingLimited")
    if limited is not None and limited["status"] == "True" and "TooMany" in limited["reason"]:
        text = (
            "The demand asks for more replicas than spec.autoscaling.maxReplicas allows: raise it, "
            "or requests wait."
        )
        return "True", "AtMaxReplicas", text
    return "True", "FollowsDemand", "The count follows the demand in tokens per second."


def _ceil(value: float) -> int:
    """Round up as the HPA does; what differs by less than its resolution, a thousandth, is equal."""
    return math.ceil(round(value, 3))
