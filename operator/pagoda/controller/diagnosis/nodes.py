"""Pods that their nodes lost or ended."""

import datetime
from collections.abc import Sequence

from pagoda.api import conditions as reasons
from pagoda.controller.diagnosis.evidence import Evidence
from pagoda.controller.diagnosis.finding import Finding
from pagoda.controller.diagnosis.text import shorten
from pagoda.controller.diagnosis.views import is_leaving, is_serving, pod_condition
from pagoda.render.objects import Object

# A successor is made within moments of the end of a pod; clocks of nodes differ a little.
SUCCESSION_SECONDS = 60.0
OFTEN = 3
BY_TAINT = "DeletionByTaintManager"


def node_lost(pod: Object, _: Evidence) -> Finding | None:
    """Find a pod whose node stopped reporting.

    The node controller takes a pod's readiness away then, while the containers stay as the kubelet
    last reported them. A kubelet always changes both.
    """
    ready = pod_condition(pod, "Ready")
    statuses = pod["status"].get("containerStatuses", ())
    if ready is None or ready["status"] == "True" or ready.get("reason"):
        return None
    if not statuses or not all(c.get("ready") for c in statuses):
        return None
    return Finding(reasons.NODE_LOST, {"detail": _where(pod)})


def ended_by_node(pods: Sequence[Object]) -> Finding | None:
    """Find replicas that their nodes lost or ended and whose successors do not serve yet.

    Args:
        pods: all pods of the revision in force, ended and leaving ones included.
    """
    staying = [pod for pod in pods if not is_leaving(pod)]
    starting = [pod for pod in staying if not is_serving(pod)]
    ended = [
        (time, pod, finding)
        for pod in pods
        if is_leaving(pod) and (finding := _end(pod)) is not None
        for time in [_end_time(pod)]
        if not staying or any(_succeeds(successor, time) for successor in starting)
    ]
    if not ended:
        return None
    _, _, finding = max(ended, key=lambda item: (item[0], str(item[1]["metadata"]["name"])))
    same = [f for _, _, f in ended if f.reason is finding.reason]
    if finding.reason is reasons.EVICTED and len(same) >= OFTEN:
        detail = f"{finding.details['detail']} It has happened again and again"
        return Finding(finding.reason, {"detail": detail})
    return finding


def _end(pod: Object) -> Finding | None:
    status = pod["status"]
    disruption = pod_condition(pod, "DisruptionTarget")
    by_taint = disruption is not None and disruption.get("reason") == BY_TAINT
    if status.get("reason") == "NodeLost" or (by_taint and status.get("phase") != "Failed"):
        return Finding(reasons.NODE_LOST, {"detail": _where(pod)})
    if status.get("phase") == "Failed" and (reason := status.get("reason")):
        message = shorten(status.get("message", ""))
        return Finding(reasons.EVICTED, {"detail": f"{reason}: {message}" if message else reason})
    return None


def _where(pod: Object) -> str:
    return f"node {pod.get('spec', {}).get('nodeName', 'unknown')}"


def _end_time(pod: Object) -> str:
    """Give the time of the end. One that was refused at once has no condition that tells."""
    times: list[str] = [
        c.get("lastTransitionTime") or ""
        for c in pod["status"].get("conditions", ())
        if c["type"] in ("DisruptionTarget", "Ready")
    ]
    return max([*times, str(pod["metadata"].get("creationTimestamp", ""))])


def _succeeds(successor: Object, time: str) -> bool:
    born = successor["metadata"].get("creationTimestamp")
    if not born or not time:
        return True
    distance = _seconds(born) - _seconds(time)
    return abs(distance) <= SUCCESSION_SECONDS


def _seconds(time: str) -> float:
    return datetime.datetime.fromisoformat(time).timestamp()
