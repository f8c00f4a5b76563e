"""Looks at the operator and at an LLMDeployment: for progress, and for diagnostics when stuck."""

import json
import time
from dataclasses import dataclass
from typing import Any

from dev.cluster import Cluster
from dev.demo import install
from dev.demo.console import Console, StuckError

# A state that needs a person may pass for a moment: the volume that is being bound, say.
_STALLED_PATIENCE_SECONDS = 15.0
_MAX_RESTARTS = 3


def operator(cluster: Cluster, namespace: str, name: str) -> tuple[bool, str]:
    """Whether the roll-out of the operator's Deployment is complete, and how far it is.

    Raises:
        StuckError: its pods crash or have no image.
    """
    deployment = _get(cluster, namespace, "deployment", name)
    wanted = deployment["spec"]["replicas"]
    status = deployment.get("status", {})
    current = status.get("observedGeneration") == deployment["metadata"]["generation"]
    updated, ready = status.get("updatedReplicas", 0), status.get("readyReplicas", 0)
    total = status.get("replicas", 0)
    for trouble in _pod_troubles(cluster, namespace, deployment):
        raise StuckError(f"operator: {trouble}")
    done = current and updated == ready == total == wanted
    return done, f"operator: {min(ready, wanted)}/{wanted} ready" + (
        "" if not current or updated == wanted else f", {updated}/{wanted} of the new version"
    )


@dataclass
class Seen:
    """What the status of an LLMDeployment said last."""

    model: str = ""
    url: str = ""
    newer_rendering: str = ""


class Deployment:
    """Follows one LLMDeployment until it is Ready."""

    def __init__(self, cluster: Cluster, namespace: str, name: str) -> None:
        self.seen = Seen()
        self._cluster, self._namespace, self._name = cluster, namespace, name
        self._stalled_since: float | None = None

    def probe(self) -> tuple[bool, str]:
        """Whether it is Ready, and its READY, STATUS, REASON and message in one line.

        Raises:
            StuckError: it needs a person.
        """
        obj = _get(self._cluster, self._namespace, "llmdeployment", self._name)
        status = obj.get("status", {})
        conditions = {c["type"]: c for c in status.get("conditions", ())}
        ready = conditions.get("Ready", {})
        message = ready.get("message", "the operator has not reported yet")
        text = f"{self._name}: {status.get('ready', '-')} {status.get('state', '-')}"
        text += f" ({ready.get('reason', '-')}) {message}"
        self._check_stalled(conditions.get("Stalled", {}), text)
        self.seen = Seen(
            model=status.get("model", ""),
            url=status.get("url", ""),
            newer_rendering=status.get("rendering", {}).get("available", ""),
        )
        current = ready.get("observedGeneration") == obj["metadata"]["generation"]
        return current and ready.get("status") == "True", text

    def _check_stalled(self, condition: dict[str, Any], text: str) -> None:
        if condition.get("status") != "True":
            self._stalled_since = None
            return
        now = time.monotonic()
        self._stalled_since = self._stalled_since or now
        if now - self._stalled_since > _STALLED_PATIENCE_SECONDS:
            raise StuckError(f"{text}: this needs a person")


def diagnose(console: Console, cluster: Cluster, namespace: str, name: str) -> None:
    """Prints what a person would look at first. Never fails itself."""
    system = install.SYSTEM_NAMESPACE
    tail = ["--tail=25", "--all-pods", "--prefix", "--ignore-errors"]
    for command in (
        ["-n", system, "get", "pods", "-o", "wide"],
        ["-n", namespace, "describe", "llmdeployment", name],
        ["-n", namespace, "get", "pods,pvc,services", "-o", "wide"],
        ["-n", namespace, "get", "events", "--sort-by=.lastTimestamp"],
        ["-n", namespace, "logs", f"deployment/{name}", *tail],
        ["-n", system, "get", "events", "--sort-by=.lastTimestamp"],
        ["-n", system, "logs", f"deployment/{install.OPERATOR}", *tail],
    ):
        done = cluster.kubectl(*command, check=False)
        output = (done.stdout + done.stderr).splitlines()
        console.show(f"\n$ kubectl {' '.join(command)}")
        console.show("\n".join(output[-60:]))


def _pod_troubles(cluster: Cluster, namespace: str, deployment: dict[str, Any]) -> list[str]:
    """What is wrong with pods of the current image: those of an older one are being replaced."""
    labels = deployment["spec"]["selector"]["matchLabels"].items()
    selector = ",".join(f"{key}={value}" for key, value in labels)
    listed = cluster.kubectl("-n", namespace, "get", "pods", "-l", selector, "-o", "json")
    troubles = []
    for pod in json.loads(listed.stdout)["items"]:
        if _images(pod["spec"]) != _images(deployment["spec"]["template"]["spec"]):
            continue
        for container in pod["status"].get("containerStatuses", ()):
            waiting = container["state"].get("waiting", {})
            reason = waiting.get("reason", "")
            if reason in ("ErrImageNeverPull", "ImagePullBackOff", "InvalidImageName") or (
                reason == "CrashLoopBackOff" and container["restartCount"] >= _MAX_RESTARTS
            ):
                why = waiting.get("message", "")
                troubles.append(f"pod {pod['metadata']['name']}: {reason}: {why}")
    return troubles


def _images(pod_spec: dict[str, Any]) -> list[str]:
    return [container["image"] for container in pod_spec["containers"]]


def _get(cluster: Cluster, namespace: str, kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        cluster.kubectl("-n", namespace, "get", kind, name, "-o", "json").stdout
    )
    return found
