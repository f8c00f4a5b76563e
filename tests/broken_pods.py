"""Pods in trouble, in the words of those who report it: kubelet, scheduler, node controller."""

import json
from typing import Any

from tests.builders import crashed, plan, pod, waiting

PLAN = plan()
REV = PLAN.choice.revision
UID = "uid-toy-1"
GPU = "nvidia.com/gpu"

CONTAINERD = 'failed to pull and unpack image "r.example/a/b:1": failed to resolve reference "r.example/a/b:1": '
ANONYMOUS = "failed to authorize: failed to fetch anonymous token: unexpected status from GET request to https://r.example/token: 401 Unauthorized"
SHORT_OF = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."

STARTS = {"name": "engine", "started": False, "state": {"running": {"startedAt": "x"}}}


def broken(**status: Any) -> dict[str, Any]:
    """A pod of the present revision that does not serve."""
    return pod(revision=REV, ready=False, **status)


def unscheduled(message: str, gpus: int = 0, **spec: Any) -> dict[str, Any]:
    made = broken(
        phase="Pending",
        conditions=[
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": message,
            }
        ],
    )
    limits = {"cpu": "1"} | ({GPU: str(gpus)} if gpus else {})
    made["spec"] = {"containers": [{"name": "engine", "resources": {"limits": limits}}]} | spec
    return made


def creating() -> dict[str, Any]:
    return broken(
        phase="Pending",
        conditions=[{"type": "PodScheduled", "status": "True"}],
        containerStatuses=waiting("ContainerCreating"),
    )


def fetching(**status: Any) -> dict[str, Any]:
    init = {
        "name": "fetch",
        "image": "pagoda",
        "restartCount": 0,
        "started": False,
        "lastState": {},
    }
    engine = waiting("PodInitializing")
    return broken(
        phase="Pending",
        conditions=[{"type": "PodScheduled", "status": "True"}],
        initContainerStatuses=[init | status],
        containerStatuses=engine,
    )


def ended_fetch(message: str, code: int = 1, reason: str = "Error") -> dict[str, Any]:
    end = {"exitCode": code, "reason": reason, "message": message}
    back_off = "back-off 20s restarting failed container=fetch pod=toy-1_default(uid-toy-1)"
    return fetching(
        restartCount=2,
        state={"waiting": {"reason": "CrashLoopBackOff", "message": back_off}},
        lastState={"terminated": end},
    )


def reported(reason: str, message: str = "what to know") -> str:
    return json.dumps({"reason": reason, "message": message})


def image(reason: str, message: str) -> dict[str, Any]:
    return broken(containerStatuses=waiting(reason, message, image="r.example/a/b:1"))


def ended(message: str, code: int = 1, reason: str = "Error") -> dict[str, Any]:
    return broken(containerStatuses=crashed(code, message=message, reason=reason))


def lost() -> dict[str, Any]:
    """As the node controller leaves it: readiness gone, containers as last reported."""
    status = {
        "name": "engine",
        "ready": True,
        "started": True,
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
    }
    return broken(containerStatuses=[status])


def failed(reason: str, message: str, *, name: str = "toy-0", at: str = "2026-01-01T00:00:00Z"):
    made = pod(name, revision=REV, ready=False, phase="Failed", reason=reason, message=message)
    made["metadata"]["creationTimestamp"] = at
    return made
