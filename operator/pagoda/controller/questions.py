"""What to ask about pods that do not serve. Pure; `pagoda.controller.inquiry` does the asking."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pagoda.controller.diagnosis import is_leaving, is_serving, pod_condition
from pagoda.controller.diagnosis.images import DENIED
from pagoda.controller.diagnosis.logs import tells_enough
from pagoda.controller.diagnosis.scheduling import (
    CLAIM_NOT_FOUND,
    CLAIM_UNUSABLE,
    claim_names,
    wanted_gpus,
)
from pagoda.controller.diagnosis.views import (
    containers,
    is_being_made,
    is_starting,
    last_end,
    waiting,
)
from pagoda.render.fetch import FETCH_CONTAINER
from pagoda.render.objects import Object

Kind = Literal["log", "events", "download", "load", "claim", "gpus"]

# The causes of a few replicas are those of all, and a fleet must not be asked pod by pod.
PODS_ASKED = 3
STUCK_SECONDS = 3.0  # a pod that gets its volumes and network in that time is not asked about
EVENTS_SECONDS = 5.0
DOWNLOAD_SECONDS = 5.0
LOAD_SECONDS = 5.0
CLAIM_SECONDS = 10.0
GPUS_SECONDS = 60.0


@dataclass(frozen=True)
class Question:
    """One thing to find out."""

    kind: Kind
    about: str  # the pod's uid, or the claim's name
    details: Mapping[str, str] = field(default_factory=dict, hash=False)
    version: Hashable = None
    """With another one the last answer is out of date, but better than none until the next."""
    delay: float = 0.0
    """Seconds from when the question first comes up."""
    repeat: float | None = None
    """Seconds after which to ask again; None: never."""


def questions(pods: Iterable[Object]) -> list[Question]:
    """List what to ask about an LLMDeployment's pods; nothing about those that serve."""
    asked = [pod for pod in pods if not is_serving(pod) and not is_leaving(pod)]
    asked.sort(key=lambda pod: str(pod["metadata"]["name"]))
    found: dict[tuple[Kind, str], Question] = {}
    for pod in asked[:PODS_ASKED]:
        for question in _about(pod):
            found.setdefault((question.kind, question.about), question)
    return list(found.values())


def _about(pod: Object) -> Iterator[Question]:
    yield from _scheduling(pod)
    yield from _logs(pod)
    yield from _events(pod)
    yield from _download(pod)
    yield from _load(pod)


def _scheduling(pod: Object) -> Iterator[Question]:
    scheduled = pod_condition(pod, "PodScheduled")
    if scheduled is None or scheduled["status"] != "False":
        return
    message = scheduled.get("message", "")
    if CLAIM_NOT_FOUND.search(message):
        return
    if CLAIM_UNUSABLE.search(message):
        namespace = pod["metadata"]["namespace"]
        for name in claim_names(pod):
            yield Question("claim", name, {"namespace": namespace}, repeat=CLAIM_SECONDS)
    elif wanted_gpus(pod):
        yield Question("gpus", "", version=message, repeat=GPUS_SECONDS)


def _logs(pod: Object) -> Iterator[Question]:
    for container in containers(pod):
        end = last_end(container)
        if end is None or end.get("reason") == "OOMKilled" or tells_enough(end.get("message", "")):
            continue
        if container["name"] == FETCH_CONTAINER and end.get("exitCode") == 0:
            continue
        details = _names(pod) | {
            "container": container["name"],
            "previous": "" if container.get("state", {}).get("terminated") else "yes",
        }
        yield Question("log", pod["metadata"]["uid"], details, _identity(end))
        return


def _events(pod: Object) -> Iterator[Question]:
    uid, names = pod["metadata"]["uid"], _names(pod)
    if is_being_made(pod):
        yield Question("events", uid, names, delay=STUCK_SECONDS, repeat=EVENTS_SECONDS)
        return
    if any(DENIED.search(message) for _, _, message in waiting(pod)):
        yield Question("events", uid, names, "denied")
        return
    for container in pod["status"].get("containerStatuses", ()):
        end = last_end(container)
        if end is not None and end.get("reason") != "OOMKilled":
            yield Question("events", uid, names, _identity(end))  # was it killed for hanging?
        elif container.get("started") and container.get("state", {}).get("running"):
            yield Question("events", uid, names, "unready", repeat=EVENTS_SECONDS)


def _download(pod: Object) -> Iterator[Question]:
    address = pod["status"].get("podIP")
    for container in pod["status"].get("initContainerStatuses", ()):
        running = container["name"] == FETCH_CONTAINER and container["state"].get("running")
        if running and address:
            uid = pod["metadata"]["uid"]
            yield Question("download", uid, {"address": address}, repeat=DOWNLOAD_SECONDS)


def _load(pod: Object) -> Iterator[Question]:
    if (address := pod["status"].get("podIP")) and is_starting(pod):
        uid = pod["metadata"]["uid"]
        yield Question("load", uid, {"address": address}, repeat=LOAD_SECONDS)


def _names(pod: Object) -> dict[str, str]:
    metadata = pod["metadata"]
    return {"namespace": metadata["namespace"], "pod": metadata["name"]}


def _identity(end: Object) -> str:
    return str(end.get("containerID") or end.get("finishedAt"))
