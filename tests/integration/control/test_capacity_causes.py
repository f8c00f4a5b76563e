"""The status names the cause with a real scheduler, real controllers and real admission."""

import itertools
import json
import os
from collections.abc import Iterator

import pytest

from dev.cluster import Cluster, up
from tests.builders import manifest
from tests.integration.control.conftest import operator_for, with_crds
from tests.kube import Api, eventually
from tests.operator_process import OperatorProcess
from tests.played import HUB, play, pod_of

NODE_GRACE = 14  # seconds without a sign of life; kwok renews its Leases every 10
_numbers = itertools.count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A scheduler, and a node with two GPUs whose kubelet kwok plays."""
    arguments = [f"--node-monitor-grace-period={NODE_GRACE}s", "--node-monitor-period=1s"]
    name = f"pytest-{os.getpid()}-causes"
    with up(name, scheduler=True, controller_manager_args=arguments) as made:
        with_crds(made)
        made.start_kwok()
        made.add_fake_node(
            "gpus", room={"nvidia.com/gpu": "2"}, labels={"nvidia.com/gpu.product": "A100"}
        )
        yield made


@pytest.fixture(scope="module")
def operator(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    log = tmp_path_factory.mktemp("operator") / "causes.log"
    with operator_for(cluster, log, "causes", "default") as process:
        yield process
        assert process.ready(), "it survived all tests"
        assert process.stop() == 0
    assert "defect" not in process.log
    assert "leaked" not in process.log, "no secret in the log"


@pytest.fixture
def api(cluster: Cluster, operator: OperatorProcess) -> Iterator[Api]:
    name = f"causes-{next(_numbers)}"
    cluster.kubectl("create", "namespace", name)
    yield Api(cluster, name)
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def test_gpu_shortage_says_how_many_are_missing_and_who_holds_them(api: Api):
    gpus = {"gpu": {"count": 2}}
    engines = ("pagoda", "vllm")
    api.apply(manifest("holder", api.namespace, model=HUB, resources=gpus))
    api.wait_reason("holder", "Ready")
    for name in engines:
        engine = {"type": name}
        api.apply(manifest(name, api.namespace, model=HUB, engine=engine, resources=gpus))
    for name in engines:
        message = api.wait_reason(name, "InsufficientGPU", timeout=10)["message"]
        eventually(
            lambda name=name: (
                "2 nvidia.com/gpu needed on one node and 0 free, so 2 missing; 1 node with 2, held by "
                "LLMDeployment holder (2)" in api.condition(name)["message"]
            ),
            timeout=10,
            what=message,
        )
        assert api.condition(name, "Stalled")["status"] == "False"
    header, *rows = api.kubectl("get", "llmd", "-o=wide").stdout.splitlines()
    column = header.index("GPUS")
    assert [row[column:].split()[0] for row in rows] == ["2", "2", "2"], "held, and asked for"
    api.delete("llmd", "vllm")
    api.delete("llmd", "holder")
    # The scheduler may be in the middle of its back-off of up to 10 s.
    api.wait_reason("pagoda", "Ready", timeout=60)


def test_gpu_product_that_no_node_has(api: Api):
    gpu = {"gpu": {"product": "H100"}}
    api.apply(manifest("toy", api.namespace, model=HUB, resources=gpu))
    message = api.wait_reason("toy", "InsufficientGPU", timeout=10)["message"]
    assert "the label nvidia.com/gpu.product=H100; there are nvidia.com/gpu.product=A100" in message


def test_claim_that_is_missing_and_then_not_bound(api: Api):
    api.apply(manifest("toy", api.namespace))
    assert '"models" not found' in api.wait_reason("toy", "VolumeNotFound", timeout=10)["message"]
    assert api.condition("toy", "ModelReady")["status"] == "False"
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    api.kubectl("create", "-f", "-", input=json.dumps(claim))
    eventually(
        lambda: (
            "claim models: is Pending, with no StorageClass"
            in api.wait_reason("toy", "VolumeNotBound")["message"]
        )
    )


def test_quota(api: Api):
    api.kubectl("create", "quota", "small", "--hard=limits.cpu=100m")
    # Until its use has been counted, pods are refused with another message.
    eventually(lambda: api.get("quota", "small")["status"]["used"])
    api.apply(manifest("toy", api.namespace, model=HUB))
    message = api.wait_reason("toy", "QuotaExceeded", timeout=10)["message"]
    assert "exceeded quota: small, requested: limits.cpu=1" in message
    assert "toy-" not in message, "a name that is another one with each try"


def test_limit_range(api: Api):
    limit = {"type": "Container", "max": {"cpu": "100m"}}
    obj = {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "small"},
        "spec": {"limits": [limit]},
    }
    api.kubectl("create", "-f", "-", input=json.dumps(obj))
    api.apply(manifest("toy", api.namespace, model=HUB))
    message = api.wait_reason("toy", "PodRejected", timeout=10)["message"]
    assert "maximum cpu usage per Container is 100m" in message


def test_admission_policy(api: Api):
    name = f"no-pods-{api.namespace}"
    where = {"matchLabels": {"kubernetes.io/metadata.name": api.namespace}}
    rule = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["pods"],
    }
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "false", "message": "no pods here"}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": where},
        },
    }
    for obj in (policy, binding):
        api.kubectl("create", "-f", "-", input=json.dumps(obj))

    def refused() -> bool:
        done = api.kubectl("run", "x", "--image=x", "--dry-run=server", check=False)
        return "no pods here" in done.stderr

    eventually(refused, what="the policy is in force")
    api.apply(manifest("toy", api.namespace, model=HUB))
    assert "no pods here" in api.wait_reason("toy", "PodRejected", timeout=10)["message"]


def test_progress_deadline(api: Api):
    """A node that is cordoned as soon as it has the pod: nothing happens there any more."""
    rollout = {"progressDeadlineSeconds": 10}
    late = {"kubernetes.io/hostname": "late"}
    api.cluster.add_fake_node("late", room={}, labels=late)
    api.cluster.stop_component("kwok")
    api.apply(
        manifest(
            "toy", api.namespace, model=HUB, rollout=rollout, scheduling={"nodeSelector": late}
        )
    )
    try:
        message = api.wait_reason("toy", "ProgressDeadlineExceeded", timeout=25)["message"]
    finally:
        api.cluster.start_component("kwok")
    assert "within 10 s" in message
    assert api.condition("toy", "Stalled")["status"] == "True"


def test_lost_node(api: Api):
    labels = {"kubernetes.io/hostname": "silent"}
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "silent", "labels": labels},
        "status": {
            "allocatable": {"cpu": "64", "memory": "64Gi", "pods": "100"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    }
    api.kubectl("create", "-f", "-", input=json.dumps(node))
    api.apply(manifest("toy", api.namespace, model=HUB, scheduling={"nodeSelector": labels}))
    eventually(lambda: pod_of(api)["spec"]["nodeName"])
    running = {"started": True, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
    play(api, ready=True, engine=running | {"ready": True}, phase="Running")
    api.wait_reason("toy", "Ready")
    message = api.wait_reason("toy", "NodeLost", timeout=NODE_GRACE + 20)["message"]
    assert "node silent" in message
    assert api.condition("toy")["status"] == "False"
