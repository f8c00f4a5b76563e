"""Plays the kubelet of an LLMDeployment's only pod."""

import json
from typing import Any

from tests.kube import Api

HUB = {"uri": "hf://org/model"}  # needs no claim


def pod_of(api: Api, name: str = "toy") -> dict[str, Any]:
    pods = api.list("pods", f"serving.pagoda.dev/llmdeployment={name}")
    staying = [pod for pod in pods if pod["status"].get("phase") != "Failed"]
    assert len(staying) == 1, [pod["metadata"]["name"] for pod in staying]
    return staying[0]


def play(
    api: Api, *, ready: bool = False, init: Any = None, engine: Any = None, **more: Any
) -> None:
    """Play the kubelet: say how the containers of the one pod are."""
    conditions = [
        {"type": "PodScheduled", "status": "True"},
        {"type": "Ready", "status": "True" if ready else "False"}
        | ({} if ready else {"reason": "ContainersNotReady"}),
    ]
    status: dict[str, Any] = {"conditions": conditions}
    common = {"image": "r.example/engine:1", "imageID": "", "ready": ready, "restartCount": 0}
    if init is not None:
        status["initContainerStatuses"] = [common | {"name": "fetch"} | init]
    if engine is not None:
        status["containerStatuses"] = [common | {"name": "engine"} | engine]
    name = pod_of(api)["metadata"]["name"]
    api.patch("pod", name, {"status": status | more}, subresource="status")


def waits(reason: str, message: str = "") -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}}


def crashes(message: str, *, code: int = 1, reason: str = "Error", run: int = 1) -> dict[str, Any]:
    end = {
        "exitCode": code,
        "reason": reason,
        "message": message,
        "containerID": f"containerd://{run}",
        "startedAt": "2026-01-01T00:01:00Z",
        "finishedAt": f"2026-01-01T00:01:{run:02}Z",
    }
    back_off = f"back-off {10 * run}s restarting failed container"
    last = {"lastState": {"terminated": end}, "restartCount": run}
    return waits("CrashLoopBackOff", back_off) | last


def event(api: Api, reason: str, note: str, time: str = "2026-01-01T00:01:01Z") -> None:
    """Record an Event about the pod as a kubelet does."""
    pod = pod_of(api)["metadata"]
    about = {"kind": "Pod", "name": pod["name"], "namespace": api.namespace, "uid": pod["uid"]}
    obj = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": "e-", "namespace": api.namespace},
        "involvedObject": about,
        "reason": reason,
        "message": note,
        "type": "Warning",
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }
    api.kubectl("create", "-f", "-", input=json.dumps(obj))
