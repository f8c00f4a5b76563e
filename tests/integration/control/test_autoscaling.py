"""Who says how many when the count follows the load, and what is said without a metrics server."""

import json
from typing import Any

from tests.builders import manifest
from tests.integration.control.conftest import StartOperator
from tests.kube import Api, eventually
from tests.operator_process import OperatorProcess

STRANGER = "v1beta1.custom.metrics.k8s.io"


def autoscaled(api: Api, *, engine: Any = None, **fields: Any) -> None:
    extra = {"engine": engine} if engine else {}
    api.apply(manifest("toy", api.namespace, autoscaling={"maxReplicas": 5} | fields, **extra))


def count(api: Api) -> int | None:
    deployment = api.get("deployment", "toy")
    return deployment and deployment["spec"]["replicas"]


def scale_as_hpa(api: Api, replicas: int) -> None:
    api.kubectl("scale", "deployment/toy", f"--replicas={replicas}")
    eventually(lambda: api.get("llmd", "toy")["status"]["desiredReplicas"] == replicas)


def active(api: Api) -> dict[str, Any]:
    conditions = api.get("llmd", "toy")["status"]["conditions"]
    return next(c for c in conditions if c["type"] == "AutoscalingActive")


def test_starts_with_the_fewest_and_leaves_the_count_to_the_hpa(
    api: Api, operator: OperatorProcess
):
    autoscaled(api, minReplicas=2)
    eventually(lambda: api.get("hpa", "toy"))
    # A decision is a change of the count in status, whose first one waits for pods.
    eventually(lambda: api.get("llmd", "toy")["status"]["desiredReplicas"] == 2)
    assert count(api) == 2
    scale_as_hpa(api, 4)
    autoscaled(api, minReplicas=2, engine={"args": ["--seed=1"]})
    eventually(lambda: "--seed=1" in str(api.get("deployment", "toy")["spec"]["template"]))
    operator.settle()
    assert count(api) == 4
    (decision, *_) = api.get("llmd", "toy")["status"]["autoscaling"]["decisions"]
    assert (decision["fromReplicas"], decision["toReplicas"]) == (2, 4)


def test_turning_it_on_and_off_keeps_the_count(api: Api, operator: OperatorProcess):
    api.apply(manifest("toy", api.namespace, replicas=3))
    eventually(lambda: count(api) == 3)
    autoscaled(api)
    eventually(lambda: api.get("hpa", "toy"))
    operator.settle()
    assert count(api) == 3
    scale_as_hpa(api, 4)
    api.apply(manifest("toy", api.namespace))
    eventually(lambda: api.get("hpa", "toy") is None)
    operator.settle()
    assert count(api) == 4
    status = api.get("llmd", "toy")["status"]
    assert "autoscaling" not in status
    assert all(c["type"] != "AutoscalingActive" for c in status["conditions"])
    api.apply(manifest("toy", api.namespace, replicas=2))
    eventually(lambda: count(api) == 2)


def test_shadow_makes_no_hpa(api: Api, operator: OperatorProcess):
    autoscaled(api)
    eventually(lambda: api.get("hpa", "toy"))
    autoscaled(api, mode="Shadow")
    eventually(lambda: api.get("hpa", "toy") is None)
    eventually(lambda: active(api)["reason"] == "Shadow")


def test_suspension_and_resume_keep_the_count(api: Api, operator: OperatorProcess):
    autoscaled(api)
    eventually(lambda: count(api) == 1)
    scale_as_hpa(api, 3)
    api.kubectl("patch", "llmd/toy", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    eventually(lambda: count(api) == 0)
    eventually(lambda: active(api)["reason"] == "Suspended")
    api.kubectl("patch", "llmd/toy", "--type=merge", "-p", '{"spec":{"suspend":false}}')
    eventually(lambda: count(api) == 3)


def test_behavior_that_cannot_be_is_told_and_changes_nothing(api: Api, operator: OperatorProcess):
    api.apply(manifest("toy", api.namespace, replicas=2))
    eventually(lambda: count(api) == 2)
    autoscaled(api, behavior={"scaleUp": {"selectPolicy": "Sometimes"}})
    api.wait_reason("toy", "InvalidSpec")
    assert "selectPolicy" in str(api.get("llmd", "toy")["status"]["conditions"])
    assert api.get("hpa", "toy") is None
    assert count(api) == 2


def test_scaling_by_hand_is_refused_with_the_reason(api: Api, operator: OperatorProcess):
    autoscaled(api)
    done = api.kubectl("scale", "llmd/toy", "--replicas=3", check=False)
    assert "spec.replicas and spec.autoscaling exclude each other" in done.stderr


def test_without_a_metrics_server_the_count_stays_and_the_reason_is_told(
    api: Api, operator: OperatorProcess
):
    autoscaled(api)
    eventually(lambda: active(api)["reason"] == "MetricsAPIMissing", timeout=60)
    assert "metricsServer.enabled" in active(api)["message"]
    assert count(api) == 1


def test_a_strangers_metrics_api_is_told(api: Api, operator_process: StartOperator):
    """Ours beside it would answer, or not, to all HPAs of the cluster."""
    stranger = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": STRANGER},
        "spec": {
            "group": "custom.metrics.k8s.io",
            "version": "v1beta1",
            "service": {"namespace": "default", "name": "adapter"},
            "insecureSkipTLSVerify": True,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
        },
    }
    api.cluster.kubectl("apply", "-f", "-", input=json.dumps(stranger))
    try:
        # To see who owns the API takes the whole cluster's permissions.
        operator_process(namespace="").start()
        autoscaled(api)
        eventually(lambda: active(api)["reason"] == "MetricsAPIOwnedByOther", timeout=60)
        assert STRANGER in active(api)["message"]
    finally:
        api.cluster.kubectl("delete", "apiservice", STRANGER)
