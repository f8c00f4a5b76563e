"""The engine's pod template, fit for namespaces that enforce restricted pod security."""

import math
from typing import Any

from pagoda.render.effective import MODEL_MOUNT, Effective
from pagoda.render.objects import REVISION_LABEL, Object, Owner, digest

CONTAINER = "engine"
NON_ROOT_UID = 65532  # "nonroot" of distroless images
STARTUP_PERIOD_SECONDS = 1
SCRATCH_LIMIT = "1Gi"


def pod_template(owner: Owner, eff: Effective, service_account: str) -> Object:
    """Build the template, with the hash of its content as the revision label."""
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
        "volumes": [
            {
                "name": "model",
                "persistentVolumeClaim": {"claimName": eff.claim, "readOnly": True},
            },
            {"name": "scratch", "emptyDir": {"sizeLimit": SCRATCH_LIMIT}},
        ],
    }
    if eff.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in eff.pull_secrets]
    spec |= eff.scheduling.model_dump(mode="json", by_alias=True, exclude_none=True)
    labels = owner.labels()
    revision = digest({"labels": labels, "spec": spec})
    return {"metadata": {"labels": labels | {REVISION_LABEL: revision}}, "spec": spec}


def _container(eff: Effective) -> Object:
    profile = eff.profile
    resources = {"cpu": eff.cpu, "memory": eff.memory}
    return {
        "name": CONTAINER,
        "image": eff.image,
        "args": [*profile.command, *eff.user_args, *profile.flags(eff.launch)],
        "env": _env(eff),
        "ports": [{"name": "http", "containerPort": profile.port, "protocol": "TCP"}],
        "resources": {"requests": resources, "limits": resources},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [
            {"name": "model", "mountPath": MODEL_MOUNT, "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp"},
        ],
        # Readiness gates the start-up probe too: the liveness probe, which would kill a slow load,
        # is asked only once the model has been ready.
        "startupProbe": _probe(
            profile.ready_path,
            period=STARTUP_PERIOD_SECONDS,
            failures=math.ceil(eff.progress_deadline_seconds / STARTUP_PERIOD_SECONDS),
        ),
        "readinessProbe": _probe(profile.ready_path, period=2, failures=2),
        "livenessProbe": _probe(profile.live_path, period=10, failures=3),
        # The engine writes the reason of its death there; without one, the log's end is taken.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _probe(path: str, *, period: int, failures: int) -> Object:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": 5,
    }


def _env(eff: Effective) -> list[dict[str, Any]]:
    """Build the variables: the engine's, overridden by the user's of the same name."""
    merged: dict[str, Any] = {
        name: {"name": name, "value": value} for name, value in eff.profile.env.items()
    }
    for variable in eff.user_env:
        merged[variable.name] = variable.model_dump(mode="json", by_alias=True, exclude_none=True)
    return list(merged.values())
