"""Pods that no node takes: GPUs, volumes, everything else."""

import re

from pagoda.api import conditions as reasons
from pagoda.controller.diagnosis.evidence import Evidence
from pagoda.controller.diagnosis.finding import Finding
from pagoda.controller.diagnosis.gpus import shortage
from pagoda.controller.diagnosis.text import shorten
from pagoda.controller.diagnosis.views import pod_condition
from pagoda.render.objects import Object

# The scheduler has no reason of its own for volumes (messages of its volumebinding plugin).
CLAIM_NOT_FOUND = re.compile(r'persistentvolumeclaim "([^"]+)" not found')
CLAIM_UNUSABLE = re.compile(
    r"unbound immediate PersistentVolumeClaims|persistentvolumeclaim \"|find available persistent "
    r"volumes|volume node affinity conflict|non-existent persistentvolume|storageclass",
    re.IGNORECASE,
)
# What it adds about preemption names no cause and changes from try to try.
TRAILER = re.compile(r"\.? (?:preemption: |no new claims to deallocate).*$")


def not_scheduled(pod: Object, evidence: Evidence) -> Finding | None:
    """Find why the scheduler does not place the pod."""
    scheduled = pod_condition(pod, "PodScheduled")
    if scheduled is None or scheduled["status"] != "False":
        return None
    message = TRAILER.sub("", shorten(scheduled.get("message", "")))
    if missing := CLAIM_NOT_FOUND.search(message):
        return Finding(reasons.VOLUME_NOT_FOUND, {"detail": missing[0]})
    if CLAIM_UNUSABLE.search(message):
        claims = "; ".join(
            f"claim {name}: {evidence.claims[name]}"
            for name in claim_names(pod)
            if name in evidence.claims
        )
        return Finding(reasons.VOLUME_NOT_BOUND, {"detail": claims or message})
    if gpu := _gpu(pod, message, evidence):
        return gpu
    return Finding(reasons.UNSCHEDULABLE, {"detail": message})


def wanted_gpus(pod: Object) -> tuple[str, int] | None:
    """Give the extended resource that a pod asks for, and how many."""
    for container in pod.get("spec", {}).get("containers", ()):
        for resource, count in container.get("resources", {}).get("limits", {}).items():
            if is_extended(resource) and str(count).isdigit():
                return resource, int(count)
    return None


def is_extended(resource: str) -> bool:
    """Tell whether a resource is a device's: it has a domain, and not Kubernetes' own."""
    domain, slash, _ = resource.rpartition("/")
    return bool(slash) and not domain.endswith("kubernetes.io")


def claim_names(pod: Object) -> list[str]:
    """List the claims that a pod mounts."""
    volumes = pod.get("spec", {}).get("volumes", ())
    return [
        v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v
    ]


def _gpu(pod: Object, message: str, evidence: Evidence) -> Finding | None:
    wanted = wanted_gpus(pod)
    if wanted is None:
        return None
    resource, count = wanted
    told = None
    if evidence.gpus is not None:
        told = shortage(
            evidence.gpus,
            resource=resource,
            wanted=count,
            selector=pod["spec"].get("nodeSelector", {}),
            namespace=pod["metadata"]["namespace"],
        )
    if f"Insufficient {resource}" in message:
        detail = told or f"{count} {resource} needed"
        return Finding(reasons.INSUFFICIENT_GPU, {"detail": f"{detail} ({message})"})
    # With a label of its own no node may be left to have too few: then the scheduler only says that.
    if told and "node affinity/selector" in message and "has the label" in told:
        return Finding(reasons.INSUFFICIENT_GPU, {"detail": f"{told} ({message})"})
    return None
