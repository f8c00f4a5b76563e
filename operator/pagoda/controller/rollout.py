"""How pods are replaced: an extra one first, or the old one first. Pure.

At rest a Deployment surges (maxSurge 1, maxUnavailable 0): with room for one more pod nobody notices
a change. Where all GPUs are taken the extra pod would wait for ever. Whether there is room is not
predicted: the extra pod is made, and only when the scheduler has found none for a while is the
strategy set to 0/1 until the roll-out is complete. One pod after another then gives its room to its
successor, and never is more than one missing.

Stopping a pod that serves is the one thing here that costs, so it is done only when

* the scheduler names a want of room ("Insufficient nvidia.com/gpu", "Too many pods", anti-affinity
  between our own pods), and not a claim that is missing or a selector that no node satisfies;
* no pod of ours is leaving: its room comes free by itself;
* the successor fits where the old pod stands once that is gone. Whichever old pod the ReplicaSet
  controller picks must do, so it is asked of all. 16 GPUs on nodes of 8 never fit: then what serves
  goes on serving. 4 grown to 8 fit if the other 4 are free.

Fit is read from the nodes. Where they may not be read (an operator of single namespaces) the
scheduler's message has to be enough: nothing but room is wanting on any node, and the old pods hold
as much as a new one asks for.

All state is in the cluster. That a roll-out replaces in place stands in the Deployment's strategy,
how long a pod waits in its PodScheduled condition, so an operator that is restarted goes on.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pagoda.api import conditions as reasons
from pagoda.controller.diagnosis import (
    Finding,
    deployment_condition,
    is_leaving,
    is_serving,
    pod_condition,
)
from pagoda.controller.room import PODS, NodeRoom, requested
from pagoda.render.deployment import REPLACE, SURGE, RollingUpdate
from pagoda.render.effective import Strategy
from pagoda.render.objects import REVISION_LABEL, SPEC_HASH_ANNOTATION, Object

DEPLOYMENT_REVISION = "deployment.kubernetes.io/revision"
ANTI_AFFINITY = "didn't match pod anti-affinity rules"
_WANT = re.compile(rf"\d+ (?:Insufficient (\S+)|(Too many pods)|node\(s\) ({ANTI_AFFINITY}))")


@dataclass(frozen=True)
class Want:
    """What the scheduler says a pod lacks."""

    resources: frozenset[str]
    only_room: bool  # no node is out for another reason


@dataclass(frozen=True)
class Stuck:
    """A pod of the new revision without room, and the pods of older revisions that hold some."""

    want: Want
    since: datetime
    template: Object  # the pod template in force
    holders: tuple[Object, ...]

    @property
    def nodes(self) -> frozenset[str]:
        """Names of the nodes with old pods."""
        return frozenset(pod["spec"]["nodeName"] for pod in self.holders)

    def is_helped(self, rooms: Mapping[str, NodeRoom] | None) -> bool:
        """Tell whether the room of any one old pod is enough for the new one.

        Args:
            rooms: the nodes by name; one that is missing is gone. None: they may not be read.
        """
        return all(self._fits_in_place_of(pod, rooms) for pod in self.holders)

    def _fits_in_place_of(self, old: Object, rooms: Mapping[str, NodeRoom] | None) -> bool:
        spec = self.template["spec"]
        if old["spec"].get("affinity") != spec.get("affinity"):
            return False  # whether the node still suits cannot be told
        wanted, freed = requested(spec), requested(old["spec"])
        if rooms is None:
            covered = all(wanted.get(name, 0) <= freed.get(name, 0) for name in self.want.resources)
            return self.want.only_room and covered
        room = rooms.get(old["spec"]["nodeName"])
        return room is not None and room.accepts(spec) and room.fits(wanted, freed)


def settled(strategy: Strategy, spec_hash: str, live: Object | None) -> RollingUpdate | None:
    """Decide without a look at the pods, where that can be done.

    Args:
        strategy: what the user wants.
        spec_hash: of the spec that is about to be applied.
        live: the Deployment as it is.

    Returns:
        The strategy; None when it depends on how the pods of a roll-out fare.
    """
    if strategy != "Auto":
        return SURGE if strategy == "Surge" else REPLACE
    if live is None:
        return SURGE
    if is_in_place(live):
        return SURGE if is_complete(live) else REPLACE
    if live["metadata"].get("annotations", {}).get(SPEC_HASH_ANNOTATION) != spec_hash:
        return SURGE  # a new template comes first
    return None


def stuck(live: Object, pods: Sequence[Object], now: datetime, patience: float) -> Stuck | None:
    """Find out whether the roll-out waits for room that old pods hold.

    Args:
        live: the Deployment, whose template is in force.
        pods: all pods behind it.
        now: the time.
        patience: seconds that a leaving pod may overrun its grace period before its room is given up.
    """
    template = live["spec"]["template"]
    if is_any_leaving(pods, now, patience):
        return None
    waits = [
        (datetime.fromisoformat(since), want)
        for pod in pods
        if _revision(pod) == _revision(template)
        if (want := want_of(pod)) is not None
        and (scheduled := pod_condition(pod, "PodScheduled")) is not None
        and (since := scheduled.get("lastTransitionTime")) is not None
    ]
    holders = tuple(
        pod for pod in pods if _revision(pod) != _revision(template) and _holds_room(pod)
    )
    if not waits or not holders:
        return None
    first, want = min(waits, key=lambda wait: wait[0])
    return Stuck(want, first, template, holders)


def is_any_leaving(pods: Iterable[Object], now: datetime, patience: float) -> bool:
    """Tell whether room of ours is about to come free. A pod on a dead node leaves never."""
    for pod in pods:
        due = pod["metadata"].get("deletionTimestamp")
        if due and now <= datetime.fromisoformat(due) + timedelta(seconds=patience):
            return True
    return False


def explain(
    hindrance: Finding | None, deployment: Object | None, pods: Sequence[Object]
) -> Finding | None:
    """Say what a pod without room waits for, where that is a pod of ours.

    Args:
        hindrance: what was found to hinder the pods.
        deployment: the Deployment as it is.
        pods: all pods behind it.

    Returns:
        The better finding, or `hindrance` itself.
    """
    unscheduled = hindrance is not None and hindrance.reason in _UNSCHEDULED
    if deployment is None or (hindrance is not None and not unscheduled):
        return hindrance
    ours = [pod for pod in pods if pod["spec"].get("nodeName")]
    if _replaces_the_only_one(deployment, pods) and (ours or not unscheduled):
        return Finding(reasons.REPLACING_IN_PLACE)
    wants = [want for pod in pods if (want := want_of(pod)) is not None]
    freed = {name for pod in ours if is_leaving(pod) for name in requested(pod["spec"])}
    if any(want.resources & freed for want in wants):
        return Finding(reasons.WAITING_FOR_DRAIN)
    return hindrance


_UNSCHEDULED = (reasons.UNSCHEDULABLE, reasons.INSUFFICIENT_GPU)


def want_of(pod: Object) -> Want | None:
    """Read what room a pod lacks; None if it has a node, or lacks something else."""
    scheduled = pod_condition(pod, "PodScheduled")
    if scheduled is None or scheduled["status"] != "False" or is_leaving(pod):
        return None
    _, found, rest = scheduled.get("message", "").partition("nodes are available: ")
    if not found:
        return None
    causes = rest.split(". ", 1)[0].rstrip(".").split(", ")
    wants = [match for cause in causes if (match := _WANT.fullmatch(cause))]
    if not wants:
        return None
    # Of the resource `pods` every pod takes one; so does room beside others like it.
    return Want(frozenset(match[1] or PODS for match in wants), len(wants) == len(causes))


def is_in_place(deployment: Object) -> bool:
    """Tell whether the Deployment stops old pods first."""
    rolling = deployment["spec"].get("strategy", {}).get("rollingUpdate") or {}
    return (rolling.get("maxSurge"), rolling.get("maxUnavailable")) == (
        REPLACE.max_surge,
        REPLACE.max_unavailable,
    )


def is_complete(deployment: Object) -> bool:
    """Tell whether the Deployment controller has replaced all pods, and they were available once."""
    status = deployment.get("status", {})
    if status.get("observedGeneration", 0) < deployment["metadata"]["generation"]:
        return False
    progressing = deployment_condition(deployment, "Progressing") or {}
    return progressing.get("reason") == "NewReplicaSetAvailable" and (
        status.get("updatedReplicas", 0) == status.get("replicas", 0)
    )


def _replaces_the_only_one(deployment: Object, pods: Iterable[Object]) -> bool:
    if deployment["spec"].get("replicas") != 1 or not is_in_place(deployment):
        return False
    if is_complete(deployment):
        return False
    revision = _revision(deployment["spec"]["template"])
    if any(is_serving(pod) and _revision(pod) == revision for pod in pods):
        return False
    is_first = deployment["metadata"].get("annotations", {}).get(DEPLOYMENT_REVISION, "1") == "1"
    return not is_first or any(_revision(pod) != revision for pod in pods)


def _holds_room(pod: Object) -> bool:
    return bool(pod["spec"].get("nodeName")) and not is_leaving(pod)


def _revision(labelled: Object) -> str | None:
    revision: str | None = labelled["metadata"].get("labels", {}).get(REVISION_LABEL)
    return revision
