"""What a pod object tells of a replica: where it is and how far it has got. Pure."""

import datetime
from dataclasses import dataclass

from pagoda.autoscaling.samples import PodState
from pagoda.render.objects import REVISION_LABEL, SELECTOR_LABEL, Object

ENDED = ("Succeeded", "Failed")


def keep(pod: Object) -> Object:
    """Take from a pod what `facts` needs; there are thousands."""
    metadata, status = pod["metadata"], pod.get("status", {})
    wanted = ("name", "namespace", "uid", "labels", "creationTimestamp", "deletionTimestamp")
    ready = [c for c in status.get("conditions") or () if c["type"] == "Ready"]
    return {
        "metadata": {k: metadata[k] for k in wanted if k in metadata},
        "status": {
            "phase": status.get("phase", ""),
            "podIP": status.get("podIP", ""),
            "ready": ready[0]["status"] == "True" if ready else False,
            "since": ready[0].get("lastTransitionTime") if ready else None,
        },
    }


@dataclass(frozen=True)
class PodFacts:
    """A pod as far as scraping is concerned. Times are seconds since 1970."""

    address: str  # "" while it has none, and when its containers have ended
    state: PodState
    revision: str
    created: float
    ready_since: float | None  # None while it is not ready


def facts(kept: Object) -> PodFacts:
    """Read what `keep` has kept."""
    metadata, status = kept["metadata"], kept["status"]
    ended = status["phase"] in ENDED
    if ended:
        state = PodState.GONE
    elif "deletionTimestamp" in metadata:
        state = PodState.LEAVING
    elif status["ready"]:
        state = PodState.SERVING
    else:
        state = PodState.STARTING
    return PodFacts(
        address="" if ended else status["podIP"],
        state=state,
        revision=metadata.get("labels", {}).get(REVISION_LABEL, ""),
        created=_seconds(metadata["creationTimestamp"]),
        ready_since=_seconds(status["since"]) if status["ready"] and status["since"] else None,
    )


def deployment_of(kept: Object) -> tuple[str, str] | None:
    """Find the LLMDeployment that a pod belongs to: namespace and name."""
    name = kept["metadata"].get("labels", {}).get(SELECTOR_LABEL)
    return (kept["metadata"]["namespace"], name) if name else None


def _seconds(timestamp: str) -> float:
    return datetime.datetime.fromisoformat(timestamp).timestamp()
