"""The engine's pod template, fit for namespaces that enforce restricted pod security."""

import math
from typing import Any

from pagoda.engines import ExecProbe, HttpProbe
from pagoda.render.effective import Effective, Gpus
from pagoda.render.fetch import fetch_container
from pagoda.render.objects import Object, Owner
from pagoda.render.source import MODEL_MOUNT, MODEL_VOLUME, HubSource, model_volume

CONTAINER = "engine"
NON_ROOT_UID = 65532  # "nonroot" of distroless images
STARTUP_PERIOD_SECONDS = 1
# A hung engine finishes nothing, so it is not given the time to drain.
HUNG_GRACE_SECONDS = 2
SECURITY: Object = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
# Labels that feature discovery sets, by the vendor's domain in the resource's name: NVIDIA's
# gpu-feature-discovery, AMD's k8s-device-plugin labeller, Intel's gpu-plugin rules for NFD.
PRODUCT_LABELS = {
    "nvidia.com": "nvidia.com/gpu.product",
    "amd.com": "amd.com/gpu.product-name",
    "gpu.intel.com": "gpu.intel.com/product",
}


def pod_template(owner: Owner, eff: Effective, service_account: str) -> Object:
    """Build the template; the label of its revision comes last (`pagoda.render.pod_patch`)."""
    spec: Object = {
        "serviceAccountName": service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": eff.grace_period_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": NON_ROOT_UID,
            "runAsGroup": NON_ROOT_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(eff)],
        "volumes": _volumes(eff),
    }
    if isinstance(eff.source, HubSource):
        spec["initContainers"] = [fetch_container(eff, eff.source, SECURITY)]
    if eff.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in eff.pull_secrets]
    spec |= _placement(eff)
    # What `kubectl logs` and `kubectl exec` mean when the user has added containers.
    annotations = {"kubectl.kubernetes.io/default-container": CONTAINER}
    return {"metadata": {"labels": owner.labels(), "annotations": annotations}, "spec": spec}


def _volumes(eff: Effective) -> list[Object]:
    volumes = [
        model_volume(eff.source),
        {"name": "scratch", "emptyDir": {"sizeLimit": eff.profile.scratch_limit}},
    ]
    if eff.shared_memory:
        shared = {"medium": "Memory", "sizeLimit": eff.shared_memory}
        volumes.append({"name": "shared-memory", "emptyDir": shared})
    return volumes


def _placement(eff: Effective) -> Object:
    """Say where replicas may run: the user's rules, and nodes with the GPUs asked for."""
    placement = eff.scheduling.model_dump(mode="json", by_alias=True, exclude_none=True)
    if eff.gpus is None:
        return placement
    # GPU nodes are commonly tainted by the name of the resource.
    taint = {"key": eff.gpus.resource_name, "operator": "Exists", "effect": "NoSchedule"}
    placement["tolerations"] = [*placement.get("tolerations", ()), taint]
    if eff.gpus.product:
        wanted = {_product_label(eff.gpus): eff.gpus.product}
        placement["nodeSelector"] = wanted | placement.get("nodeSelector", {})
    return placement


def _product_label(gpus: Gpus) -> str:
    vendor = gpus.resource_name.partition("/")[0]
    return PRODUCT_LABELS.get(vendor, f"{vendor}/gpu.product")


def _container(eff: Effective) -> Object:
    profile = eff.profile
    resources = {"cpu": eff.cpu, "memory": eff.memory}
    if eff.gpus:
        resources[eff.gpus.resource_name] = str(eff.gpus.count)
    container = {
        "name": CONTAINER,
        "image": eff.image,
        "args": [*profile.arguments, *eff.user_args, *profile.flags(eff.launch)],
        "env": _env(eff),
        "ports": [{"name": "http", "containerPort": profile.port, "protocol": "TCP"}],
        "resources": {"requests": resources, "limits": resources},
        "securityContext": SECURITY,
        "volumeMounts": [
            {"name": MODEL_VOLUME, "mountPath": MODEL_MOUNT, "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp"},
        ],
        # Readiness gates the start-up probe too: the liveness probe, which would kill a slow load,
        # is asked only once the model has been ready.
        "startupProbe": _probe(
            profile.ready,
            period=STARTUP_PERIOD_SECONDS,
            failures=math.ceil(eff.progress_deadline_seconds / STARTUP_PERIOD_SECONDS),
        ),
        "readinessProbe": _probe(profile.ready, period=2, failures=2),
        "livenessProbe": _probe(
            profile.live, period=10, failures=3, timeout=profile.live_timeout_seconds
        )
        | {"terminationGracePeriodSeconds": HUNG_GRACE_SECONDS},
        # The engine writes the reason of its death there; without one, the log's end is taken.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if profile.command:
        container["command"] = list(profile.command)
    if eff.shared_memory:
        mounts = container["volumeMounts"]
        container["volumeMounts"] = [*mounts, {"name": "shared-memory", "mountPath": "/dev/shm"}]
    if not profile.delays_by_itself:
        # By the kubelet, without a shell in the image.
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": profile.drain_delay_seconds}}}
    return container


def _probe(probe: HttpProbe | ExecProbe, *, period: int, failures: int, timeout: int = 5) -> Object:
    asked: Object
    if isinstance(probe, HttpProbe):
        asked = {"httpGet": {"path": probe.path, "port": "http"}}
    else:
        asked = {"exec": {"command": list(probe.command)}}
    return asked | {
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": timeout,
    }


def _env(eff: Effective) -> list[dict[str, Any]]:
    """Build the variables: the engine's, overridden by the user's of the same name."""
    merged: dict[str, Any] = {
        name: {"name": name, "value": value} for name, value in eff.profile.env(eff.launch).items()
    }
    for variable in eff.user_env:
        merged[variable.name] = variable.model_dump(mode="json", by_alias=True, exclude_none=True)
    return list(merged.values())
