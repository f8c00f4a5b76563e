"""What the integration tests rely on in the control plane."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dev.cluster import Cluster, ClusterError, attach, processes, up
from tests import aggregated_api

NAMES = iter(range(1000))


@pytest.fixture
def namespace(control_plane: Cluster) -> Iterator[str]:
    name = f"test-{next(NAMES)}"
    control_plane.kubectl("create", "namespace", name)
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


def eventually(condition: Callable[[], bool], timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.05)


def pod(name: str, **container: object) -> dict[str, object]:
    spec = {"containers": [{"name": "main", "image": "localhost/none:test", **container}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def create(cluster: Cluster, namespace: str, manifest: object) -> None:
    cluster.kubectl("create", "-n", namespace, "-f", "-", input=json.dumps(manifest))


def test_controllers_work_and_garbage_is_collected(control_plane: Cluster, namespace: str) -> None:
    def pods() -> str:
        return control_plane.kubectl("get", "pods", "-n", namespace, "-o", "name").stdout

    control_plane.kubectl("create", "deployment", "web", "--image=none", "-n", namespace)
    eventually(lambda: pods() != "")
    control_plane.kubectl("delete", "deployment", "web", "-n", namespace)
    eventually(lambda: pods() == "")


def test_autoscaler_looks_at_its_target(control_plane: Cluster, namespace: str) -> None:
    control_plane.kubectl("create", "deployment", "web", "--image=none", "-n", namespace)
    scaling = ("--min=1", "--max=2", "--cpu=50%")
    control_plane.kubectl("autoscale", "deployment", "web", "-n", namespace, *scaling)
    control_plane.kubectl("wait", "hpa/web", "-n", namespace, "--for=condition=AbleToScale")


def test_pod_security_refuses_a_privileged_pod(control_plane: Cluster, namespace: str) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    control_plane.kubectl("label", "namespace", namespace, label)
    bad = json.dumps(pod("bad", securityContext={"privileged": True}))

    def refused() -> bool:  # admission hears of the label by a watch
        command = ("create", "-n", namespace, "--dry-run=server", "-f", "-")
        return (
            "violates PodSecurity" in control_plane.kubectl(*command, input=bad, check=False).stderr
        )

    eventually(refused)


def test_another_user_may_do_what_is_bound_to_it(control_plane: Cluster, namespace: str) -> None:
    user = f"system:serviceaccount:{namespace}:reader"
    kubeconfig = control_plane.kubeconfig_for(user, ["readers"])

    def may_list_pods() -> bool:
        command = ("auth", "can-i", "list", "pods", "-n", namespace)
        done = control_plane.kubectl(f"--kubeconfig={kubeconfig}", *command, check=False)
        return done.stdout == "yes\n"

    assert not may_list_pods()
    control_plane.kubectl(
        "create", "rolebinding", "readers", "--clusterrole=view", "--group=readers", "-n", namespace
    )
    eventually(may_list_pods)


def test_aggregated_api_served_by_the_host(
    control_plane: Cluster, namespace: str, tmp_path: Path
) -> None:
    """The way for tests without a node: an ExternalName that is this host."""
    name = f"api.{namespace}.svc"
    with aggregated_api.serving(control_plane, tmp_path, "127.0.0.1", name) as (port, bundle):
        spec = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "api"}, "spec": spec}
        create(control_plane, namespace, service)
        create(
            control_plane,
            namespace,
            aggregated_api.registration(namespace, "api", port, bundle),
        )
        try:
            assert aggregated_api.asked_by(control_plane) == "admin"
        finally:
            control_plane.kubectl("delete", "apiservice", aggregated_api.NAME)


def test_audit_log_has_every_write_and_no_read(control_plane: Cluster, namespace: str) -> None:
    user = f"writer-of-{namespace}"
    kubeconfig = control_plane.kubeconfig_for(user, ["system:masters"])
    for command in (("create", "configmap", "c"), ("get", "configmap", "c"), ("delete", "cm", "c")):
        control_plane.kubectl(f"--kubeconfig={kubeconfig}", *command, "-n", namespace)

    def verbs() -> list[str]:  # a line is written after its answer is sent
        lines = control_plane.audit_log.read_text().splitlines(keepends=True)
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event["verb"] for event in events if event["user"]["username"] == user]

    eventually(lambda: len(verbs()) >= 2)
    assert verbs() == ["create", "delete"]


def test_api_server_can_be_restarted_and_stopped(control_plane: Cluster) -> None:
    control_plane.restart_apiserver()
    control_plane.kubectl("get", "namespaces")
    control_plane.stop_component("kube-apiserver")
    with pytest.raises(ClusterError, match="refused"):
        control_plane.kubectl("get", "namespaces")
    control_plane.start_component("kube-apiserver")
    control_plane.kubectl("get", "namespaces")


def test_node_features_are_refused_without_a_node(control_plane: Cluster, tmp_path: Path) -> None:
    (tmp_path / "image.tar").touch()
    with pytest.raises(ClusterError, match="has no running node"):
        control_plane.load_image(tmp_path / "image.tar")


def test_side_by_side_then_broken_then_repaired(control_plane: Cluster) -> None:
    """Also covers that a killed etcd is noticed and that `up` then starts afresh."""
    name = f"pytest-{os.getpid()}-b"
    with pytest.raises(ClusterError, match="runs already"):
        up(control_plane.name)
    other = up(name)
    assert other.server != control_plane.server
    etcd = processes.record(other.state, "etcd")
    assert etcd is not None
    etcd.identity.kill()
    with pytest.raises(ClusterError, match="not whole"):
        attach(name)
    with up(name, scheduler=True) as again:
        again.kubectl("get", "namespaces")
        started = [record.identity for record in processes.records(again.state)]
        assert len(started) == 4
    assert not any(identity.alive for identity in started)
    assert not other.state.exists()
