"""The HorizontalPodAutoscaler on the demand in tokens per second.

Its metrics are averages per replica (`AverageValue`), which need no pod to be ready: the count is
`ceil(value / target)`. That a small change changes nothing is seen to by the metric itself
(`pagoda.autoscaling.law`); the HPA's own tolerance, where it applies, returns the number of pods that
exist, and in a roll-out that is one too many (docs/autoscaling.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pagoda.api import API_VERSION, KIND
from pagoda.api.autoscaling import Autoscaling
from pagoda.autoscaling.law import (
    BACKLOG_TARGET_SECONDS,
    KV_CACHE_TARGET,
    LOAD,
    WAITING_TARGET,
)
from pagoda.render.objects import Object, Owner
from pagoda.render.quantity import parse_quantity

DEMAND = "demand_tokens_per_second"
BACKLOG = "backlog_seconds"
WAITING = "requests_waiting"
KV_USAGE = "kv_cache_usage"

# Kubernetes from which `behavior.*.tolerance` exists.
TOLERANCE_SINCE = (1, 35)

# Up at once, since users wait; down slowly, since starting again takes long.
BEHAVIOR: Mapping[str, Mapping[str, Any]] = {
    "scaleUp": {
        "stabilizationWindowSeconds": 0,
        "selectPolicy": "Max",
        "policies": [
            {"type": "Percent", "value": 100, "periodSeconds": 30},
            {"type": "Pods", "value": 2, "periodSeconds": 30},
        ],
    },
    "scaleDown": {
        "stabilizationWindowSeconds": 300,
        "selectPolicy": "Max",
        "policies": [
            {"type": "Percent", "value": 10, "periodSeconds": 60},
            {"type": "Pods", "value": 1, "periodSeconds": 60},
        ],
    },
}


@dataclass(frozen=True)
class ScalingFacts:
    """What the HPA depends on besides the spec.

    Attributes:
        learned_target: output tokens/s per replica from measured capacity; None while unknown.
        has_tolerance: the API server knows `behavior.*.tolerance` (Kubernetes 1.35).
    """

    learned_target: int | None = None
    has_tolerance: bool = False


NO_SCALING_FACTS = ScalingFacts()


def target_of(scaling: Autoscaling, facts: ScalingFacts) -> int | None:
    """Give the demand that one replica shall carry, in output tokens/s; None while unknown."""
    return scaling.target_tokens_per_second or facts.learned_target


def min_replicas(scaling: Autoscaling) -> int:
    """Give the fewest replicas."""
    return 1 if scaling.min_replicas is None else scaling.min_replicas


def learned_target(capacity: float) -> int:
    """Give the demand that a replica shall carry of what it was measured to serve at most."""
    return max(1, round(LOAD * capacity))


def averages(target: int | None) -> dict[str, float]:
    """Give the metrics and what each shall be per replica.

    Without a target those of which every engine can do the same.
    """
    first = (
        {WAITING: WAITING_TARGET}
        if target is None
        else {DEMAND: float(target), BACKLOG: BACKLOG_TARGET_SECONDS}
    )
    return first | {KV_USAGE: KV_CACHE_TARGET}


def autoscaler(owner: Owner, scaling: Autoscaling, facts: ScalingFacts) -> Object:
    """Build the HPA."""
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": owner.metadata(),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": owner.name},
            "minReplicas": min_replicas(scaling),
            "maxReplicas": scaling.max_replicas,
            "metrics": [
                _metric(owner, name, average)
                for name, average in averages(target_of(scaling, facts)).items()
            ],
            "behavior": _behavior(scaling.behavior or {}, facts),
        },
    }


def facts_of(hpa: Object | None) -> ScalingFacts:
    """Read the facts back from an HPA, for those who cannot ask for them."""
    if hpa is None:
        return NO_SCALING_FACTS
    spec = hpa["spec"]
    targets = {
        metric["object"]["metric"]["name"]: metric["object"]["target"]["averageValue"]
        for metric in spec.get("metrics", ())
        if metric["type"] == "Object"
    }
    demand = targets.get(DEMAND)
    return ScalingFacts(
        learned_target=None if demand is None else int(parse_quantity(demand)),
        has_tolerance="tolerance" in spec.get("behavior", {}).get("scaleUp", {}),
    )


def _behavior(wished: Mapping[str, Any], facts: ScalingFacts) -> Object:
    """Fill in the defaults per direction; what the user says of one wins."""
    behavior = dict(wished)
    for direction, defaults in BEHAVIOR.items():
        said = wished.get(direction)
        if said is not None and not isinstance(said, Mapping):
            continue  # the API server says what is wrong with it
        tolerance = {"tolerance": "0"} if facts.has_tolerance else {}
        behavior[direction] = dict(defaults) | tolerance | dict(said or {})
    return behavior


def _metric(owner: Owner, name: str, average: float) -> Object:
    return {
        "type": "Object",
        "object": {
            "describedObject": {"apiVersion": API_VERSION, "kind": KIND, "name": owner.name},
            "metric": {"name": name},
            "target": {"type": "AverageValue", "averageValue": _quantity(average)},
        },
    }


def _quantity(number: float) -> str:
    """Write a number as the API server does, who would rewrite `800e-3` or `1500m` of 1.5."""
    thousandths = round(number * 1000)
    whole, rest = divmod(thousandths, 1000)
    return f"{thousandths}m" if rest else str(whole)
