"""What the rest of the project relies on in the development cluster's node."""

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from dev.cluster import Cluster, ClusterError, addresses, binary
from tests import aggregated_api

pytestmark = pytest.mark.timeout(300)


def pod(name: str, image: str, command: str, **spec: Any) -> dict[str, Any]:
    """A pod that runs one shell command."""
    container = {
        "name": "main",
        "image": image,
        "command": ["sh", "-c", command],
        "imagePullPolicy": "Never",
    }
    container |= spec.pop("container", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container], **spec},
    }


def service(name: str, **spec: Any) -> dict[str, Any]:
    """A Service for the pod of the same name, port 80 to 8080."""
    ports = [{"port": 80, "targetPort": 8080}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": ports, **spec},
    }


WEB = "mkdir /www && echo hello > /www/index.html && exec httpd -f -p 8080 -h /www"


def apply(cluster: Cluster, namespace: str, *manifests: dict[str, Any]) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": manifests}
    cluster.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(listed))


def wait(cluster: Cluster, namespace: str, what: str, condition: str) -> None:
    cluster.kubectl("wait", "-n", namespace, what, f"--for={condition}", "--timeout=60s")


def run_pod(cluster: Cluster, namespace: str, image: str, command: str) -> str:
    """Run a command in a pod until it ends; returns its output."""
    apply(cluster, namespace, pod("once", image, command, restartPolicy="Never"))
    wait(cluster, namespace, "pod/once", "jsonpath={.status.phase}=Succeeded")
    return cluster.kubectl("logs", "-n", namespace, "once").stdout


def test_logs_and_exec(node_cluster: Cluster, namespace: str, shell_image: str) -> None:
    apply(node_cluster, namespace, pod("sh", shell_image, "echo started; sleep 1000"))
    wait(node_cluster, namespace, "pod/sh", "condition=Ready")
    assert node_cluster.kubectl("logs", "-n", namespace, "sh").stdout == "started\n"
    done = node_cluster.kubectl("exec", "-n", namespace, "-i", "sh", "--", "cat", input="typed")
    assert done.stdout == "typed"


def test_port_forward(node_cluster: Cluster, namespace: str, shell_image: str) -> None:
    apply(node_cluster, namespace, pod("web", shell_image, WEB))
    wait(node_cluster, namespace, "pod/web", "condition=Ready")
    command = [binary("kubectl"), f"--kubeconfig={node_cluster.kubeconfig}", "-n", namespace]
    with subprocess.Popen(
        [*command, "port-forward", "pod/web", ":8080"], stdout=subprocess.PIPE, text=True
    ) as forward:
        assert forward.stdout is not None
        address = forward.stdout.readline().split()[2]
        assert httpx.get(f"http://{address}/", trust_env=False).text == "hello\n"
        forward.terminate()


def test_service_reached_from_host_and_by_name_from_a_pod(
    node_cluster: Cluster, namespace: str, shell_image: str
) -> None:
    apply(node_cluster, namespace, pod("web", shell_image, WEB), service("web"))
    wait(node_cluster, namespace, "pod/web", "condition=Ready")
    address = node_cluster.kubectl(
        "get", "service", "web", "-n", namespace, "-o", "jsonpath={.spec.clusterIP}"
    ).stdout

    transport = httpx.HTTPTransport(retries=5)  # kube-proxy programs a second after readiness
    with httpx.Client(transport=transport) as client:
        assert client.get(f"http://{address}/").text == "hello\n"
    names = ("web", f"web.{namespace}.svc.cluster.local")
    fetched = run_pod(
        node_cluster, namespace, shell_image, "; ".join(f"wget -qO- http://{n}/" for n in names)
    )
    assert fetched == "hello\nhello\n"


def test_pod_reaches_itself_through_its_service(
    node_cluster: Cluster, namespace: str, shell_image: str
) -> None:
    apply(node_cluster, namespace, pod("web", shell_image, WEB), service("web"))
    wait(node_cluster, namespace, "pod/web", "condition=Ready")
    # Not by the bare name, which is the pod's own host name.
    fetch = f"until timeout 2 wget -qO- http://web.{namespace}/; do sleep 0.2; done"
    command = ("timeout", "30", "sh", "-c", fetch)
    done = node_cluster.kubectl("exec", "-n", namespace, "web", "--", *command)
    assert done.stdout == "hello\n"


def test_name_outside_the_cluster_is_refused_at_once(
    node_cluster: Cluster, namespace: str, shell_image: str
) -> None:
    output = run_pod(
        node_cluster, namespace, shell_image, "time -p nslookup pagoda.example 2>&1 || true"
    )
    assert "NXDOMAIN" in output
    (seconds,) = (line.split()[1] for line in output.splitlines() if line.startswith("real"))
    assert float(seconds) < 2


def test_token_of_a_pod_is_its_service_account(
    node_cluster: Cluster, namespace: str, shell_image: str
) -> None:
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    apply(node_cluster, namespace, pod("sh", shell_image, "sleep 1000"))
    wait(node_cluster, namespace, "pod/sh", "condition=Ready")
    token = node_cluster.kubectl("exec", "-n", namespace, "sh", "--", "cat", f"{folder}/token")
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token.stdout},
    }
    answer = node_cluster.kubectl(
        "create", "-f", "-", "-o", "jsonpath={.status.user.username}", input=json.dumps(review)
    )
    assert answer.stdout == f"system:serviceaccount:{namespace}:default"


def test_local_volume(
    node_cluster: Cluster, namespace: str, shell_image: str, tmp_path: Path
) -> None:
    node = node_cluster.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}").stdout
    size = {"storage": "1Mi"}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": namespace},
        "spec": {
            "capacity": size,
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "local",
            "local": {"path": str(tmp_path)},
            "nodeAffinity": {
                "required": {
                    "nodeSelectorTerms": [
                        {
                            "matchExpressions": [
                                {
                                    "key": "kubernetes.io/hostname",
                                    "operator": "In",
                                    "values": [node],
                                }
                            ]
                        }
                    ]
                }
            },
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "claim"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "local",
            "resources": {"requests": size},
        },
    }
    writer = pod(
        "writer",
        shell_image,
        "echo written > /data/file",
        restartPolicy="Never",
        volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "claim"}}],
        container={"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
    )
    mode = node_cluster.kubectl(
        "get", "storageclass", "local", "-o", "jsonpath={.volumeBindingMode}"
    )
    assert mode.stdout == "WaitForFirstConsumer"
    apply(node_cluster, namespace, volume, claim, writer)
    try:
        wait(node_cluster, namespace, "pod/writer", "jsonpath={.status.phase}=Succeeded")
        assert (tmp_path / "file").read_text() == "written\n"
    finally:
        node_cluster.kubectl("delete", "persistentvolume", namespace, "--wait=false")


def test_eviction_is_held_by_a_disruption_budget(
    node_cluster: Cluster, namespace: str, shell_image: str
) -> None:
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "web"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
    }
    apply(node_cluster, namespace, pod("web", shell_image, WEB), budget)
    wait(node_cluster, namespace, "pod/web", "condition=Ready")
    wait(node_cluster, namespace, "pdb/web", "jsonpath={.status.currentHealthy}=1")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web"}}
    path = f"/api/v1/namespaces/{namespace}/pods/web/eviction"

    def evict() -> subprocess.CompletedProcess[str]:
        return node_cluster.kubectl(
            "create", "--raw", path, "-f", "-", input=json.dumps(eviction), check=False
        )

    assert "disruption budget" in evict().stderr
    node_cluster.kubectl("delete", "pdb", "web", "-n", namespace)
    assert evict().returncode == 0
    wait(node_cluster, namespace, "pod/web", "delete")


def test_aggregated_api_served_by_the_host(
    node_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    name = f"api.{namespace}.svc"
    with aggregated_api.serving(node_cluster, tmp_path, addresses.HOST, name) as (port, bundle):
        endpoints = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "api", "labels": {"kubernetes.io/service-name": "api"}},
            "addressType": "IPv4",
            "ports": [{"port": port}],
            "endpoints": [{"addresses": [addresses.HOST]}],
        }
        front = service("api", ports=[{"port": 443, "targetPort": port}], selector=None)
        registration = aggregated_api.registration(namespace, "api", 443, bundle)
        apply(node_cluster, namespace, endpoints, front, registration)
        try:
            assert aggregated_api.asked_by(node_cluster) == "admin"
        finally:
            node_cluster.kubectl("delete", "apiservice", aggregated_api.NAME)


def test_load_image_refuses_what_is_no_archive(node_cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(ClusterError, match="ctr images import"):
        node_cluster.load_image(tmp_path / "text")
