"""Why do pods not serve? Pure: one small policy per cause, the first that fits wins.

Inputs are the projected pods and the live Deployment; nothing is guessed. A pod that is merely young
has no cause.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from pagoda.api import conditions as reasons
from pagoda.api.conditions import Reason
from pagoda.render.objects import Object

MESSAGE_LIMIT = 600  # a pod's message can be a whole log tail
# Tokens by their issuers' prefixes, and values after words that announce one.
SECRET = re.compile(
    r"((?:hf|gh[pousr]|sk|xox[abp])[_-]|AKIA|Bearer\s+|(?:token|password|secret|api[-_]?key)[\"']?\s*[=:]\s*[\"']?)"
    r"[^\s\"',]{6,}",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Finding:
    """A cause, with what its message needs."""

    reason: Reason
    details: dict[str, Any] = field(default_factory=dict)


Policy = Callable[[Object], Finding | None]


def diagnose_pods(pods: Iterable[Object]) -> Finding | None:
    """Find the first cause among pods that do not serve, the gravest policy first."""
    waiting = [pod for pod in pods if not is_serving(pod) and not is_leaving(pod)]
    for policy in POLICIES:
        for pod in sorted(waiting, key=lambda p: str(p["metadata"]["name"])):
            if (finding := policy(pod)) is not None:
                return finding
    return None


def diagnose_deployment(deployment: Object) -> Finding | None:
    """Find what keeps the Deployment from making pods at all."""
    failure = deployment_condition(deployment, "ReplicaFailure")
    if failure is None or failure["status"] != "True":
        return None
    message = shorten(failure.get("message", ""))
    quota = "exceeded quota" in message
    return Finding(reasons.QUOTA_EXCEEDED if quota else reasons.POD_REJECTED, {"detail": message})


def is_serving(pod: Object) -> bool:
    """Tell whether the pod is ready and stays."""
    ready = pod_condition(pod, "Ready")
    return ready is not None and ready["status"] == "True" and not is_leaving(pod)


def is_leaving(pod: Object) -> bool:
    """Tell whether the pod is being deleted or has ended."""
    return bool(pod["metadata"].get("deletionTimestamp")) or pod["status"].get("phase") in (
        "Failed",
        "Succeeded",
    )


def pod_condition(pod: Object, kind: str) -> Object | None:
    """Give a pod's condition."""
    return _condition(pod["status"].get("conditions", ()), kind)


def deployment_condition(deployment: Object, kind: str) -> Object | None:
    """Give a Deployment's condition."""
    return _condition(deployment.get("status", {}).get("conditions", ()), kind)


def shorten(message: str) -> str:
    """Make one line of a message, without secrets and not too long; a log's end tells most."""
    line = SECRET.sub(r"\1***", re.sub(r"\s+", " ", message).strip())
    return line if len(line) <= MESSAGE_LIMIT else "…" + line[-MESSAGE_LIMIT:]


def _condition(conditions: Iterable[Object], kind: str) -> Object | None:
    return next((c for c in conditions if c["type"] == kind), None)


def _containers(pod: Object) -> list[Object]:
    status = pod["status"]
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def _waiting(pod: Object) -> Iterable[tuple[Object, str, str]]:
    for container in _containers(pod):
        if state := container.get("state", {}).get("waiting"):
            yield container, state.get("reason", ""), shorten(state.get("message", ""))


def _image_pull(pod: Object) -> Finding | None:
    for container, reason, message in _waiting(pod):
        if reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"):
            details = {"image": container["image"], "detail": message or reason}
            return Finding(reasons.IMAGE_PULL_FAILED, details)
    return None


def _config_error(pod: Object) -> Finding | None:
    for _, reason, message in _waiting(pod):
        if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
            return Finding(reasons.CONFIG_ERROR, {"detail": message or reason})
    return None


def _crash(pod: Object) -> Finding | None:
    for container in _containers(pod):
        if container.get("started"):
            continue  # it came up again; an earlier end is not what keeps it from serving
        ended = container.get("lastState", {}).get("terminated") or container.get("state", {}).get(
            "terminated"
        )
        if not ended or ended.get("exitCode") == 0:
            continue
        restarts = container.get("restartCount", 0)
        if ended.get("reason") == "OOMKilled":
            return Finding(reasons.OUT_OF_MEMORY, {"restarts": restarts})
        detail = shorten(ended.get("message", "")) or "it left no message"
        return Finding(
            reasons.ENGINE_CRASHED,
            {"code": ended.get("exitCode"), "restarts": restarts, "detail": detail},
        )
    return None


def _not_scheduled(pod: Object) -> Finding | None:
    scheduled = pod_condition(pod, "PodScheduled")
    if scheduled is None or scheduled["status"] != "False":
        return None
    message = shorten(scheduled.get("message", ""))
    # The scheduler has no reason of its own for these (volumebinding plugin's messages).
    volume = "persistentvolumeclaim" in message or "PersistentVolumeClaim" in message
    if volume:
        missing = "not found" in message
        reason = reasons.VOLUME_NOT_FOUND if missing else reasons.VOLUME_NOT_BOUND
    else:
        reason = reasons.UNSCHEDULABLE
    return Finding(reason, {"detail": message})


POLICIES: tuple[Policy, ...] = (_image_pull, _config_error, _crash, _not_scheduled)
