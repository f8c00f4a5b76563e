"""Fixtures: an API server whose aggregator leads to a metrics server of the test's own.

There is one custom.metrics.k8s.io in a cluster, so these tests have a cluster for themselves and
run one after the other. The server may do what the chart grants it, and nothing else.
"""

import itertools
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dev.cluster import Cluster, binary, up
from tests.fake_engine import FakeEngine
from tests.kube import Api, eventually
from tests.metrics_server_process import MetricsServerProcess

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "pagoda"
NAME = "pagoda-metrics-server"
API_SERVICE = "v1beta2.custom.metrics.k8s.io"
GROUP_PATH = "/apis/custom.metrics.k8s.io/v1beta2"
_numbers = itertools.count()

Object = dict[str, Any]
StartServer = Callable[..., MetricsServerProcess]


@pytest.fixture(scope="session")
def metrics_cluster() -> Iterator[Cluster]:
    with up(f"pytest-{os.getpid()}-metrics") as cluster:
        cluster.kubectl("apply", "--server-side", "-f", ROOT / "crds")
        yield cluster


@contextmanager
def installed(cluster: Cluster) -> Iterator[Api]:
    """The chart's own objects in a namespace of their own, as after an install; no pods."""
    name = f"m{next(_numbers)}"
    cluster.kubectl("create", "namespace", name)
    command = [binary("helm"), "template", "pagoda", CHART, "--namespace", name]
    for part in ("rbac", "service"):
        command += ["--show-only", f"templates/metrics-server/{part}.yaml"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    cluster.kubectl("apply", "--server-side", "-f", "-", input=done.stdout)
    api = Api(cluster, name)
    yield api
    uninstall(api)
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def uninstall(api: Api) -> None:
    """What matters of `helm uninstall`: what is cluster-wide goes."""
    names = (NAME, f"{NAME}-signals", f"{NAME}-auth-delegator")
    api.kubectl("delete", "clusterrolebinding", *names, "--ignore-not-found")
    api.kubectl("delete", "clusterrole", *names[:2], "--ignore-not-found")
    eventually(lambda: api_service(api) is None, what="the APIService goes with the chart")


@contextmanager
def servers(api: Api, folder: Path) -> Iterator[StartServer]:
    """Start servers of a release; they are killed in the end."""
    made: list[MetricsServerProcess] = []
    kubeconfig = api.cluster.kubeconfig_for(
        f"system:serviceaccount:{api.namespace}:{NAME}",
        ["system:serviceaccounts", "system:authenticated"],
    )

    def make(**flags: Any) -> MetricsServerProcess:
        log = folder / f"{len(made)}.log"
        process = MetricsServerProcess(kubeconfig, log, namespace=api.namespace, **flags)
        made.append(process)
        if len(made) == 1:
            lead_to(api, process.port)
        return process.start()

    try:
        yield make
    finally:
        for process in made:
            process.kill()
    for process in made:
        assert "defect" not in process.log


@pytest.fixture
def release(metrics_cluster: Cluster) -> Iterator[Api]:
    """An installation of the test's own."""
    with installed(metrics_cluster) as api:
        yield api


@pytest.fixture
def server(release: Api, tmp_path: Path) -> Iterator[StartServer]:
    """Start servers of the test's own installation."""
    with servers(release, tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def shared(
    metrics_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Api, MetricsServerProcess]]:
    """One installation and one server, registered, for all tests of a module that only ask it."""
    with (
        installed(metrics_cluster) as api,
        servers(api, tmp_path_factory.mktemp("shared")) as make,
    ):
        running = make().wait_ready()
        wait_available(api)
        yield api, running


def lead_to(api: Api, port: int) -> None:
    """Let the Service lead to a process of this host."""
    api.kubectl("delete", "service", NAME)
    spec = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}
    api.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME}, "spec": spec})


def api_service(api: Api) -> Object | None:
    done = api.kubectl("get", "apiservice", API_SERVICE, "-o", "json", check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def wait_available(api: Api) -> None:
    """Wait until the aggregator sends requests for the group to us, and takes our answer."""

    def available() -> bool:
        found = api_service(api)
        assert found is not None, "no APIService yet"
        conditions = {c["type"]: c for c in found.get("status", {}).get("conditions", ())}
        assert conditions["Available"]["status"] == "True", conditions["Available"]
        # What is written there reaches the aggregator by a watch.
        asked = api.cluster.kubectl("get", "--raw", GROUP_PATH, check=False)
        assert asked.returncode == 0, asked.stderr
        return True

    eventually(available, timeout=60)


def raw(api: Api, path: str, *, kubeconfig: Path | None = None) -> Any:
    """`kubectl get --raw`."""
    flags = () if kubeconfig is None else (f"--kubeconfig={kubeconfig}",)
    return json.loads(api.cluster.kubectl(*flags, "get", "--raw", path).stdout)


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine() as fake:
        yield fake


def llmdeployment(name: str, **spec: Any) -> Object:
    return {
        "apiVersion": "serving.pagoda.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name},
        "spec": {"model": {"uri": "pvc://models/x"}} | spec,
    }


def workload(name: str, replicas: int = 1) -> Object:
    """The Deployment that the operator would make, as far as it matters here."""
    labels = {"serving.pagoda.dev/llmdeployment": name, "app.kubernetes.io/managed-by": "pagoda"}
    container = {"name": "engine", "image": "localhost/none:test"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"serving.pagoda.dev/llmdeployment": name}},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def serve(api: Api, name: str, *engines: FakeEngine) -> list[str]:
    """Make an LLMDeployment whose pods are these engines; the pods' names."""
    api.apply(llmdeployment(name))
    api.apply(workload(name, len(engines)))

    def made() -> list[Object]:
        pods = api.list("pods", f"serving.pagoda.dev/llmdeployment={name}")
        assert len(pods) == len(engines)
        return pods

    pods = eventually(made)
    for pod, engine in zip(pods, engines, strict=True):
        play_kubelet(api, pod["metadata"]["name"], engine.address)
    return [pod["metadata"]["name"] for pod in pods]


def play_kubelet(api: Api, pod: str, address: str, *, ready: bool = True) -> None:
    """Report a pod as running."""
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    status = {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [condition],
    }
    api.patch("pod", pod, {"status": status}, subresource="status")
