"""Looks into pods and Deployments that all policies share."""

from collections.abc import Iterable, Iterator

from pagoda.render.objects import Object
from pagoda.render.pod import CONTAINER

ENDED = ("Failed", "Succeeded")


def is_serving(pod: Object) -> bool:
    """Tell whether the pod is ready and stays."""
    ready = pod_condition(pod, "Ready")
    return ready is not None and ready["status"] == "True" and not is_leaving(pod)


def is_leaving(pod: Object) -> bool:
    """Tell whether the pod is being deleted or has ended."""
    return bool(pod["metadata"].get("deletionTimestamp")) or pod["status"].get("phase") in ENDED


def pod_condition(pod: Object, kind: str) -> Object | None:
    """Give a pod's condition."""
    return _condition(pod["status"].get("conditions", ()), kind)


def deployment_condition(deployment: Object, kind: str) -> Object | None:
    """Give a Deployment's condition."""
    return _condition(deployment.get("status", {}).get("conditions", ()), kind)


def containers(pod: Object) -> list[Object]:
    """Give the status of all containers, those first that run first."""
    status = pod["status"]
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def waiting(pod: Object) -> Iterator[tuple[Object, str, str]]:
    """Give the containers that wait, with the reason and the message."""
    for container in containers(pod):
        if state := container.get("state", {}).get("waiting"):
            yield container, state.get("reason", ""), state.get("message", "")


def last_end(container: Object) -> Object | None:
    """Give the end that keeps a container from serving; None once it has come up again."""
    if container.get("started"):
        return None
    state, last = container.get("state", {}), container.get("lastState", {})
    end: Object | None = state.get("terminated") or last.get("terminated")
    return end


def is_starting(pod: Object) -> bool:
    """Tell whether the engine runs and has not been ready yet."""
    return any(
        c.get("state", {}).get("running") and not c.get("started")
        for c in pod["status"].get("containerStatuses", ())
        if c["name"] == CONTAINER
    )


def is_draining(pod: Object) -> bool:
    """Tell whether the engine has been told to stop, and finishes what it has."""
    if not pod["metadata"].get("deletionTimestamp"):
        return False
    return any(
        c.get("state", {}).get("running") and c.get("started")
        for c in pod["status"].get("containerStatuses", ())
        if c["name"] == CONTAINER
    )


def is_being_made(pod: Object) -> bool:
    """Tell whether the pod has a node, and no container of it has been made yet."""
    scheduled = pod_condition(pod, "PodScheduled")
    if scheduled is None or scheduled["status"] != "True":
        return False
    states = [c.get("state", {}) for c in containers(pod)]
    making = ("ContainerCreating", "PodInitializing")
    return all(s.get("waiting", {}).get("reason") in making for s in states)


def _condition(conditions: Iterable[Object], kind: str) -> Object | None:
    return next((c for c in conditions if c["type"] == kind), None)
