"""The cluster, the operator as it runs in production, and namespaces that come and go."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dev.cluster import Cluster, processes, up
from tests.integration.control.conftest import SERVICE_ACCOUNT, grant, with_crds
from tests.operator_process import OperatorProcess

RELEASE = "default"  # the operator's own namespace
USER = f"{SERVICE_ACCOUNT}{RELEASE}:pagoda-operator"
CAPTURE = "bench-capture"

# As in tests, but bodies too in the one namespace from which they are copied.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "Request",
            "namespaces": [CAPTURE],
            "users": [USER],
            "verbs": ["create", "patch"],
        },
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete"]},
        {"level": "None"},
    ],
}


class Setting:
    """One cluster and what runs against it."""

    def __init__(self, cluster: Cluster, folder: Path, operator_flags: dict[str, str]):
        self.cluster = cluster
        self.folder = folder
        self.kubeconfig = cluster.kubeconfig_for(
            USER, ["system:serviceaccounts", "system:authenticated"]
        )
        self._flags = operator_flags
        self.primed_at = 0.0  # when the youngest operator was ready (monotonic)

    @contextmanager
    def operator(self) -> Iterator[OperatorProcess]:
        """A fresh operator that leads and has nothing to do; SIGTERM at the end."""
        log = self.folder / "operator.log"
        flags = {"lease_namespace": RELEASE} | self._flags
        with OperatorProcess(
            self.kubeconfig, log, identity="bench", periods={}, **flags
        ) as process:
            self.primed_at = time.monotonic()
            process.settle()
            yield process
            assert process.stop() == 0, process.log[-2000:]
        assert "defect" not in process.log

    @contextmanager
    def namespace(self, name: str) -> Iterator[str]:
        """A namespace; everything in it is gone at the end."""
        self.cluster.kubectl("create", "namespace", name)
        yield name
        self.cluster.kubectl("delete", "namespace", name, "--timeout=600s")

    def pid(self, component: str) -> int:
        """The process of a part of the control plane."""
        record = processes.record(self.cluster.state, component)
        assert record is not None
        return int(record.identity.pid)


@contextmanager
def setting(
    name: str, *, deployment_controller: bool, operator_flags: dict[str, str]
) -> Iterator[Setting]:
    """Start the control plane, with the CRD and the chart's RBAC."""
    with tempfile.TemporaryDirectory(prefix="pagoda-bench-") as folder:
        policy = Path(folder) / "audit-policy.json"
        policy.write_text(json.dumps(AUDIT_POLICY))
        arguments: Sequence[str] = () if deployment_controller else ["--controllers=*,-deployment"]
        with up(
            name,
            apiserver_args=[f"--audit-policy-file={policy}"],
            controller_manager_args=arguments,
        ) as cluster:
            grant(with_crds(cluster), RELEASE, "")
            yield Setting(cluster, Path(folder), operator_flags)


def wait_until(check: Callable[[], Any], *, timeout: float, what: str) -> None:
    """Wait, looking five times a second: looking oftener would cost what is measured."""
    deadline = time.monotonic() + timeout
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:.0f} s: {what}")
        time.sleep(0.2)
