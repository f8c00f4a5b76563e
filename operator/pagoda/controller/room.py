"""How much room a node has for a pod, by the scheduler's own arithmetic. Pure.

Only what the roll-out has to know before it stops a pod that serves: would the successor go where
that pod stands? Requests are summed as the scheduler does (component-helpers' `PodRequests`, without
the order of sidecars among init containers, and without resource claims).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from pagoda.render.objects import Object
from pagoda.render.quantity import parse_quantity

PODS = "pods"  # the resource of which every pod takes one

NOTHING = Decimal(0)

Amounts = Mapping[str, Decimal]


@dataclass(frozen=True)
class NodeRoom:
    """A node and what is left on it."""

    node: Object
    free: Amounts

    @classmethod
    def of(cls, node: Object, pods: Iterable[Object]) -> "NodeRoom":
        """Compute it from the node and all pods on it."""
        free = _amounts(node["status"].get("allocatable", {}))
        for pod in pods:
            if pod["status"].get("phase") not in ("Succeeded", "Failed"):
                for name, amount in requested(pod["spec"]).items():
                    free[name] = free.get(name, NOTHING) - amount
        return cls(node, free)

    def accepts(self, pod_spec: Object) -> bool:
        """Tell whether cordon, taints and node selector let such a pod in."""
        spec = self.node.get("spec", {})
        if spec.get("unschedulable"):
            return False
        tolerations = pod_spec.get("tolerations", ())
        for taint in spec.get("taints", ()):
            if taint["effect"] == "PreferNoSchedule":
                continue
            if not any(_tolerates(toleration, taint) for toleration in tolerations):
                return False
        labels = self.node["metadata"].get("labels", {})
        selector = pod_spec.get("nodeSelector") or {}
        return all(labels.get(key) == value for key, value in selector.items())

    def fits(self, wanted: Amounts, freed: Amounts) -> bool:
        """Tell whether a pod fits once another one has given back what it holds."""
        return all(
            amount <= self.free.get(name, NOTHING) + freed.get(name, NOTHING)
            for name, amount in wanted.items()
            if amount
        )


def requested(pod_spec: Object) -> dict[str, Decimal]:
    """Sum up what a pod takes from its node."""
    init = pod_spec.get("initContainers", ())
    sidecars = [container for container in init if container.get("restartPolicy") == "Always"]
    total = {PODS: Decimal(1)}
    for container in (*pod_spec.get("containers", ()), *sidecars):
        _add(total, _requests(container))
    for container in init:
        if container not in sidecars:
            for name, amount in _requests(container).items():
                total[name] = max(amount, total.get(name, NOTHING))
    _add(total, _amounts(pod_spec.get("overhead", {})))
    return total


def _add(total: dict[str, Decimal], more: Amounts) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, NOTHING) + amount


def _requests(container: Object) -> dict[str, Decimal]:
    return _amounts(container.get("resources", {}).get("requests", {}))


def _amounts(quantities: Mapping[str, object]) -> dict[str, Decimal]:
    return {name: parse_quantity(str(quantity)) for name, quantity in quantities.items()}


def _tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    said = toleration.get("key"), toleration.get("value", "")
    return bool(said == (taint["key"], taint.get("value", "")))
