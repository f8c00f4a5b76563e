"""Builders of objects for tests, in the shape the API server gives them."""

import itertools
from typing import Any

from pagoda.api.v1alpha1 import LLMDeploymentSpec
from pagoda.render.autoscaler import NO_SCALING_FACTS, ScalingFacts
from pagoda.render.effective import Settings
from pagoda.render.ingress import UNKNOWN_CLASS, IngressClassFact
from pagoda.render.objects import (
    MANAGED_BY,
    MANAGED_BY_LABEL,
    REVISION_LABEL,
    SELECTOR_LABEL,
    Owner,
)
from pagoda.render.plan import Facts, Plan, desired

_versions = itertools.count(1000)

OWNER = Owner(namespace="default", name="toy", uid="uid-toy", generation=1)


def spec(**fields: Any) -> dict[str, Any]:
    return {"model": {"uri": "pvc://models/toy"}} | fields


def llmd(
    *, name: str = "toy", namespace: str = "default", generation: int = 1, **fields: Any
) -> dict[str, Any]:
    """An LLMDeployment as the API server holds it."""
    return {
        "apiVersion": "serving.pagoda.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{name}",
            "generation": generation,
            "resourceVersion": str(next(_versions)),
        },
        "spec": spec(**fields),
    }


def manifest(name: str = "toy", namespace: str = "default", **fields: Any) -> dict[str, Any]:
    """An LLMDeployment as a user writes it."""
    return {
        "apiVersion": "serving.pagoda.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec(**fields),
    }


def plan(
    *,
    owner: Owner = OWNER,
    images: dict[str, str] | None = None,
    pinned: dict[str, Any] | None = None,
    deployment: dict[str, Any] | None = None,
    ingress_class: IngressClassFact = UNKNOWN_CLASS,
    holds_last: bool = True,
    scaling: ScalingFacts = NO_SCALING_FACTS,
    **fields: Any,
) -> Plan:
    facts = Facts(
        Settings(images or {}),
        pinned,
        deployment,
        holds_last=holds_last,
        ingress_class=ingress_class,
        scaling=scaling,
    )
    return desired(owner, LLMDeploymentSpec.model_validate(spec(**fields)), facts)


def only(plan: Plan, kind: str) -> dict[str, Any]:
    """The one object of a kind in a plan."""
    (found,) = [obj for obj in plan.objects if obj["kind"] == kind]
    return found


def live(obj: dict[str, Any], **extra: Any) -> dict[str, Any]:
    """An object as the API server would hold it."""
    metadata = obj["metadata"] | {
        "uid": f"uid-{obj['kind']}-{obj['metadata']['name']}",
        "resourceVersion": str(next(_versions)),
        "generation": 1,
    }
    return obj | {"metadata": metadata} | extra


def live_deployment(
    plan: Plan, *, replicas: int = 1, conditions: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    obj = live(only(plan, "Deployment"))
    obj["spec"] = obj["spec"] | {"replicas": replicas}
    obj["metadata"]["generation"] = 1 if replicas == 1 else 2  # it was scaled after its creation
    observed = obj["metadata"]["generation"]
    obj["status"] = {"observedGeneration": observed, "conditions": conditions or []}
    return obj


def pod(
    name: str = "toy-1",
    *,
    revision: str,
    ready: bool = True,
    leaving: bool = False,
    parent: str = "toy",
    **status: Any,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": "default",
        "uid": f"uid-{name}",
        "resourceVersion": str(next(_versions)),
        "labels": {
            SELECTOR_LABEL: parent,
            MANAGED_BY_LABEL: MANAGED_BY,
            REVISION_LABEL: revision,
        },
    }
    if leaving:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    conditions += status.pop("conditions", [])
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running", "conditions": conditions} | status,
    }


def waiting(reason: str, message: str = "", image: str = "img") -> list[dict[str, Any]]:
    state = {"waiting": {"reason": reason, "message": message}}
    return [{"name": "engine", "image": image, "restartCount": 0, "state": state}]


def crashed(code: int, *, reason: str = "Error", message: str = "", restarts: int = 1) -> Any:
    last = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    state = {"waiting": {"reason": "CrashLoopBackOff"}}
    return [
        {
            "name": "engine",
            "image": "img",
            "restartCount": restarts,
            "state": state,
            "lastState": last,
        }
    ]
