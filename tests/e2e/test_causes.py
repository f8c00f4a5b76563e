"""The causes that a real kubelet reports end in the right reason. All are made at once."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from dev.cluster import Cluster
from dev.demo import install as steps
from tests.builders import manifest
from tests.e2e.install import install, offer_toy_model
from tests.kube import Api, eventually, remove_namespaces

TIMEOUT = 90.0
LITTLE = {"cpu": "50m", "memory": "1Gi"}
REGISTRY_PORTS = {"absent": 5101, "refusing": 5102}
STOP_CHILDREN = """
import os, pathlib, signal
for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
    pid, _, rest = stat.read_text().partition(" (")
    if rest.rsplit(") ", 1)[1].split()[1] == "1" and int(pid) != os.getpid():
        os.kill(int(pid), signal.SIGSTOP)
        print("stopped", pid)
"""


def secret(name: str, key: str = "k") -> dict[str, Any]:
    reference = {"secretKeyRef": {"name": name, "key": key}}
    return {"engine": {"env": [{"name": "A", "valueFrom": reference}]}}


def image(registry: str) -> dict[str, Any]:
    return {"engine": {"image": f"localhost:{REGISTRY_PORTS[registry]}/engine:1"}}


# name → spec, reason, what the message says
BROKEN: dict[str, tuple[dict[str, Any], str, str]] = {
    "no-image": (image("absent"), "ImageNotFound", "localhost:5101/engine:1"),
    "denied-image": (image("refusing"), "ImagePullDenied", "localhost:5102/engine:1"),
    "no-registry": (
        {"engine": {"image": "localhost/x:1"}},
        "ImagePullFailed",
        "connection refused",
    ),
    "no-secret": (secret("nosuch"), "SecretNotFound", 'secret "nosuch" not found'),
    "no-key": (secret("keyless", "mine"), "SecretKeyNotFound", "couldn't find key mine in Secret"),
    "no-claim": ({"model": {"uri": "pvc://nosuch/x"}}, "VolumeNotFound", '"nosuch" not found'),
    "no-folder": ({"model": {"uri": "pvc://models/nosuch"}}, "EngineCrashed", "nosuch"),
    "no-flag": ({"engine": {"args": ["--no-such-flag"]}}, "EngineCrashed", "--no-such-flag"),
    "no-room": ({"resources": {"cpu": "1000"}}, "Unschedulable", "Insufficient cpu"),
    "no-gpu": ({"resources": {"gpu": {}}}, "InsufficientGPU", "no node offers any"),
    "no-memory": (
        {"resources": {"cpu": "500m", "memory": "48Mi"}},
        "OutOfMemory",
        "killed at its memory limit",
    ),
}


@pytest.fixture(scope="module")
def api(node_cluster: Cluster, shell_image: str) -> Iterator[Api]:
    """A namespace with everything broken, and one replica that serves."""
    install(node_cluster)
    api = Api(node_cluster, "causes")
    steps.make_namespace(node_cluster, api.namespace)
    offer_toy_model(node_cluster, api.namespace)
    api.kubectl("create", "secret", "generic", "keyless", "--from-literal=other=x")
    registries = start_registries(node_cluster, shell_image)
    hanging = {"args": ["--step-timeout=1"]}
    resources = {"cpu": "500m", "memory": "1Gi"}
    api.apply(
        manifest(
            "hangs", api.namespace, engine=hanging, resources=resources, rollout={"drainSeconds": 1}
        )
    )
    for name, (fields, _, _) in BROKEN.items():
        api.apply(manifest(name, api.namespace, **({"resources": LITTLE} | fields)))
    yield api
    remove_namespaces(node_cluster, api.namespace, registries)


def start_registries(cluster: Cluster, image: str) -> str:
    """Start a registry without images and one that asks for a password, on the node's loopback."""
    namespace = "causes-registries"
    cluster.kubectl("create", "namespace", namespace)
    commands = {"absent": "", "refusing": "echo '/:user:word' > /c; "}
    for name, prepare in commands.items():
        config = "-c /c -r registry" if prepare else ""
        serve = f"{prepare}exec httpd -f -p 127.0.0.1:{REGISTRY_PORTS[name]} -h /bin {config}"
        container = {"name": "httpd", "image": image, "command": ["/bin/sh", "-c", serve]}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "hostNetwork": True,
                "terminationGracePeriodSeconds": 0,
                "containers": [container],
            },
        }
        cluster.kubectl("create", "-f", "-", input=json.dumps(pod))
    cluster.kubectl(
        "-n", namespace, "wait", "--for=condition=Ready", "pods", "--all", "--timeout=60s"
    )
    return namespace


@pytest.mark.parametrize("name", BROKEN)
def test_status_names_the_cause(api: Api, name: str):
    _, reason, says = BROKEN[name]
    message = api.wait_reason(name, reason, timeout=TIMEOUT)["message"]
    assert says in message
    assert api.condition(name)["status"] == "False"


def test_hung_engine_is_told_while_it_is_restarted(api: Api):
    api.kubectl("wait", "--for=condition=Ready", "llmd/hangs", f"--timeout={TIMEOUT:.0f}s")
    (pod,) = api.list("pods", "serving.pagoda.dev/llmdeployment=hangs")
    command = (
        "exec",
        pod["metadata"]["name"],
        "-c",
        "engine",
        "--",
        "python3",
        "-c",
        STOP_CHILDREN,
    )
    assert "stopped" in api.kubectl(*command).stdout
    message = api.wait_reason("hangs", "EngineHung", timeout=TIMEOUT)["message"]
    assert "made no progress" in message
    api.kubectl("wait", "--for=condition=Ready", "llmd/hangs", f"--timeout={TIMEOUT:.0f}s")


def test_crash_loops_cost_no_writes(api: Api):
    """By now every container has ended several times."""
    for name in ("no-flag", "no-memory"):

        def restarted(name: str = name) -> bool:
            (pod,) = api.list("pods", f"serving.pagoda.dev/llmdeployment={name}")
            return bool(pod["status"]["containerStatuses"][0]["restartCount"] >= 2)

        eventually(restarted, timeout=TIMEOUT)
        events = [
            e
            for e in api.list("events.events.k8s.io")
            if e["regarding"]["kind"] == "LLMDeployment" and e["regarding"]["name"] == name
        ]
        warned = [(e["reason"], e["note"]) for e in events if e["type"] == "Warning"]
        assert [reason for reason, _ in warned] == [BROKEN[name][1]], warned
