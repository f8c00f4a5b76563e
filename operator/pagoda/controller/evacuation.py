"""How the only replica leaves a node that is about to be drained. Pure.

`kubectl drain` and the upgrades of managed clusters cordon a node, then evict its pods and try again
for as long as a PodDisruptionBudget forbids it. With two replicas the budget lets one go at a time.
The only one must have a successor first, so its budget forbids the eviction, and the cordon makes
this operator start the successor: it writes the pod's name on the pod template, as `kubectl rollout
restart` writes a time. The Deployment then surges, away from the cordoned node, and stops the old pod
itself once the new one is ready. The drain finds it gone.

The budget gives way where waiting is of no use: the successor finds no node for a while, or cannot be
made. Then the eviction is an outage, and the status says so beforehand.

All state is in the cluster: the mark on the template, the same mark on the pods made from it.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import datetime

from pagoda.api import conditions as reasons
from pagoda.controller.diagnosis import (
    Finding,
    deployment_condition,
    is_leaving,
    is_serving,
    pod_condition,
)
from pagoda.controller.rollout import is_complete
from pagoda.render.objects import REVISION_LABEL, SUCCESSOR_OF_ANNOTATION, Object


@dataclass(frozen=True)
class Evacuation:
    """What to do about a cordon."""

    gives_way: bool = False  # the budget lets go of the only replica
    mark: str | None = (
        None  # what the template is to be marked with; None: as it is; "": not at all
    )
    finding: Finding | None = None
    due: float | None = None  # seconds until it has to be looked at again


NONE = Evacuation()


def decide(
    live: Object,
    pods: Sequence[Object],
    cordoned: Container[str],
    now: datetime,
    patience: float,
) -> Evacuation:
    """Decide for a Deployment of one replica.

    Args:
        live: the Deployment as it is.
        pods: all pods behind it.
        cordoned: names of the cordoned nodes.
        now: the time.
        patience: seconds that a successor may be without a node.
    """
    serving = [pod for pod in pods if is_serving(pod)]
    leaving_node = [pod for pod in serving if pod["spec"].get("nodeName") in cordoned]
    if not leaving_node:
        return Evacuation(mark=_given_up(live, serving))
    if len(leaving_node) < len(serving):
        return NONE  # one serves elsewhere: the roll-out is about to stop the other
    pod = leaving_node[0]
    node = pod["spec"]["nodeName"]
    if is_complete(live) and _mark(live["spec"]["template"]) != pod["metadata"]["name"]:
        finding = Finding(reasons.LEAVING_NODE, {"detail": node})
        return Evacuation(mark=pod["metadata"]["name"], finding=finding)
    return _await_successor(node, live, pods, now, patience)


def _await_successor(
    node: str, live: Object, pods: Sequence[Object], now: datetime, patience: float
) -> Evacuation:
    """Judge a roll-out that is under way, whether it was made by a cordon or by an edit."""
    failure = deployment_condition(live, "ReplicaFailure")
    if failure is not None and failure["status"] == "True":
        return _give_way(node, failure.get("message", ""))
    due = None
    for pod in pods:
        scheduled = pod_condition(pod, "PodScheduled")
        if is_leaving(pod) or scheduled is None or scheduled["status"] == "True":
            continue
        since = datetime.fromisoformat(scheduled["lastTransitionTime"])
        due = patience - (now - since).total_seconds()
        if due <= 0:
            return _give_way(node, scheduled.get("message", ""))
    finding = Finding(reasons.LEAVING_NODE, {"detail": node})
    return Evacuation(finding=finding, due=due)


def _give_way(node: str, why: str) -> Evacuation:
    finding = Finding(reasons.OUTAGE_AHEAD, {"detail": f"{node}: {why}"})
    return Evacuation(gives_way=True, finding=finding)


def _given_up(live: Object, serving: Sequence[Object]) -> str | None:
    """Take the mark back if a pod of the template before it serves and needs no successor any more.

    The cordon was taken back, or the pod was evicted for want of a place elsewhere and its like has
    got the room when there was some again. The template is then that of the pod which serves, and
    its ReplicaSet goes on.
    """
    template = live["spec"]["template"]
    mark = _mark(template)
    if mark is None or is_complete(live) or any(_mark(pod) == mark for pod in serving):
        return None
    same = (pod for pod in serving if _revision(pod) == _revision(template))
    return next((_mark(pod) or "" for pod in same), None)


def _mark(labelled: Object) -> str | None:
    mark: str | None = labelled["metadata"].get("annotations", {}).get(SUCCESSOR_OF_ANNOTATION)
    return mark


def _revision(labelled: Object) -> str | None:
    revision: str | None = labelled["metadata"].get("labels", {}).get(REVISION_LABEL)
    return revision
