"""Fixtures: API servers with the CRD, a namespace per test, operators.

Tests that only need *an* operator share one per module (fixture `operator`). Tests that stop,
freeze or upgrade operators start their own (`operator_process`) against a second API server, where
no other operator interferes and which they may restart.
"""

import itertools
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dev.cluster import Cluster, binary, up
from tests.kube import Api, Audit, eventually
from tests.operator_process import OperatorProcess

ROOT = Path(__file__).parents[3]
CRDS = ROOT / "crds"
CHART = ROOT / "charts" / "pagoda"

SERVICE_ACCOUNT = "system:serviceaccount:"
_numbers = itertools.count()
StartOperator = Callable[..., OperatorProcess]


@pytest.fixture(scope="session")
def shared_cluster(control_plane: Cluster) -> Cluster:
    """The API server with the shared operator."""
    return with_crds(control_plane)


@pytest.fixture(scope="session")
def fault_cluster() -> Iterator[Cluster]:
    """The API server of tests that bring their own operators."""
    with up(f"pytest-{os.getpid()}-faults") as cluster:
        yield with_crds(cluster)


def with_crds(cluster: Cluster) -> Cluster:
    cluster.kubectl("apply", "--server-side", "-f", CRDS)
    # As long as a CRD has no conditions at all, kubectl takes that for an error.
    wait = ("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
    eventually(lambda: cluster.kubectl(*wait, check=False).returncode == 0)
    # Discovery hears of it a moment later.
    listed = ("get", "llmdeployments", "--all-namespaces")
    eventually(lambda: cluster.kubectl(*listed, check=False).returncode == 0)
    return cluster


@pytest.fixture
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    """A namespace of the test's own; it is gone afterwards, or going."""
    own = "operator_process" in request.fixturenames
    cluster = request.getfixturevalue("fault_cluster" if own else "shared_cluster")
    # Short, as a user's name in a client certificate has at most 64 characters.
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_"))
    name = f"t{next(_numbers)}-{words[:20]}".strip("-")
    cluster.kubectl("create", "namespace", name)
    yield Api(cluster, name)
    cluster.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


@pytest.fixture(scope="module")
def operator(
    shared_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """One operator for the whole cluster and all tests of a module; it must survive them."""
    log = tmp_path_factory.mktemp("operator") / "shared.log"
    with operator_for(shared_cluster, log, "shared", "default") as process:
        yield process
        assert process.ready(), "it survived all tests"
        assert process.stop() == 0
    assert "defect" not in process.log


@pytest.fixture
def operator_process(api: Api, tmp_path: Path) -> Iterator[StartOperator]:
    """Make operators that watch the test's namespace; they are killed at its end."""
    made: list[OperatorProcess] = []

    def make(identity: str = "one", **flags: str) -> OperatorProcess:
        flags = {"namespace": api.namespace} | flags
        log = tmp_path / f"{identity}.log"
        made.append(operator_for(api.cluster, log, identity, api.namespace, **flags))
        return made[-1]

    yield make
    for process in made:
        process.kill()


def operator_for(
    cluster: Cluster, log: Path, identity: str, lease_namespace: str, **flags: str
) -> OperatorProcess:
    """Make an operator that may do what the chart grants it, and nothing else."""
    watched = flags.get("namespace", "")
    grant(cluster, lease_namespace, watched)
    groups = ["system:serviceaccounts", "system:authenticated"]
    kubeconfig = cluster.kubeconfig_for(
        f"{SERVICE_ACCOUNT}{lease_namespace}:pagoda-operator", groups
    )
    flags = {"lease_namespace": lease_namespace} | flags
    return OperatorProcess(kubeconfig, log, identity=identity, **flags)


def grant(cluster: Cluster, release_namespace: str, watched: str) -> None:
    """Apply the chart's RBAC: one namespace if `watched` names it, else the whole cluster."""
    command = [binary("helm"), "template", "pagoda", CHART, "--namespace", release_namespace]
    command += ["--show-only", "templates/rbac.yaml"]
    if watched:
        command += ["--set", f"watchNamespaces={{{watched}}}"]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    cluster.kubectl("apply", "--server-side", "-f", "-", input=rendered)


@pytest.fixture
def audit(api: Api) -> Callable[[], Audit]:
    """Start recording what the operator writes."""
    return lambda: Audit(api.cluster)
