"""The init container that downloads a model: engines never download."""

from pagoda.render.effective import Effective
from pagoda.render.objects import Object
from pagoda.render.source import MODEL_MOUNT, MODEL_VOLUME, HubSource

FETCH_CONTAINER = "fetch"
PROGRESS_PORT = 8300
TOKEN_VARIABLE = "HF_TOKEN"
TERMINATION_LOG = "/dev/termination-log"  # the kubelet's default path


def fetch_container(eff: Effective, source: HubSource, security: Object) -> Object:
    """Build the init container that downloads the model.

    Its requests are the engine's: a pod is charged the larger of the two, so they cost nothing.
    """
    arguments = ["fetch", "--uri", source.uri, "--target", f"{MODEL_MOUNT}/{source.path}"]
    if source.revision:
        arguments += ["--revision", source.revision]
    arguments += ["--progress-port", str(PROGRESS_PORT)]
    arguments += ["--deadline-seconds", str(eff.progress_deadline_seconds)]
    arguments += ["--termination-log", TERMINATION_LOG]
    env: list[Object] = [{"name": "HOME", "value": "/tmp"}]
    if eff.settings.hub_endpoint:
        env.append({"name": "HF_ENDPOINT", "value": eff.settings.hub_endpoint})
    if source.secret:
        reference = {"name": source.secret, "key": TOKEN_VARIABLE}
        env.append({"name": TOKEN_VARIABLE, "valueFrom": {"secretKeyRef": reference}})
    resources = {"cpu": eff.cpu, "memory": eff.memory}
    return {
        "name": FETCH_CONTAINER,
        "image": eff.settings.fetch_image,
        "args": arguments,
        "env": env,
        "ports": [{"name": "progress", "containerPort": PROGRESS_PORT, "protocol": "TCP"}],
        "resources": {"requests": resources, "limits": resources},
        "securityContext": security,
        "volumeMounts": [
            {"name": MODEL_VOLUME, "mountPath": MODEL_MOUNT},
            {"name": "scratch", "mountPath": "/tmp"},
        ],
        # The error as JSON; without one, the log's end.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
