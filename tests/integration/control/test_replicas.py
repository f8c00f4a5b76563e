"""Who says how many: the table of design section 3."""

import json

from tests.builders import manifest
from tests.kube import Api, Audit, eventually
from tests.operator_process import OperatorProcess


def count(api: Api) -> int | None:
    deployment = api.get("deployment", "toy")
    return deployment and deployment["spec"]["replicas"]


def observed(api: Api) -> bool:
    deployment = api.get("deployment", "toy")
    return bool(
        deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"]
        and api.list("replicasets")
    )


def managers(api: Api) -> set[str]:
    text = api.kubectl("get", "deployment", "toy", "-o", "json", "--show-managed-fields").stdout
    fields = json.loads(text)["metadata"]["managedFields"]
    return {f["manager"] for f in fields if "f:replicas" in f["fieldsV1"].get("f:spec", {})}


def test_fixed_count_is_applied_by_its_own_manager(api: Api, operator: OperatorProcess):
    api.apply(manifest("toy", api.namespace, replicas=2))
    eventually(lambda: count(api) == 2)
    assert managers(api) == {"pagoda-operator-replicas"}
    api.kubectl("scale", "llmd/toy", "--replicas=3")
    eventually(lambda: count(api) == 3)
    api.kubectl("scale", "llmd/toy", "--replicas=0")
    api.wait_reason("toy", "ScaledToZero")
    assert count(api) == 0


def test_created_with_zero_never_makes_a_pod(api: Api, operator: OperatorProcess):
    """With a GPU engine a pod that lives for a moment takes a GPU from somebody."""
    api.apply(manifest("toy", api.namespace, replicas=0))
    api.wait_reason("toy", "ScaledToZero")
    operator.settle()
    eventually(lambda: observed(api), what="the Deployment's controller has had its say")
    assert count(api) == 0
    assert managers(api) == {"pagoda-operator-replicas"}
    everybody = Audit(api.cluster, "", "", from_start=True)
    assert [
        w for w in everybody.writes(namespace=api.namespace) if w.startswith("create pods")
    ] == []
    api.kubectl("scale", "llmd/toy", "--replicas=1")
    eventually(lambda: api.list("pods"))


def test_unset_count_is_one_and_then_left_alone(api: Api, operator: OperatorProcess):
    api.apply(manifest("toy", api.namespace))
    eventually(lambda: count(api) == 1)
    api.kubectl("scale", "deployment/toy", "--replicas=3")  # as an HPA does
    api.apply(manifest("toy", api.namespace, engine={"args": ["--seed=1"]}))
    eventually(lambda: "--seed=1" in str(api.get("deployment", "toy")["spec"]["template"]))
    operator.settle()
    assert count(api) == 3


def test_count_taken_out_of_the_spec_stays(api: Api, operator: OperatorProcess):
    api.apply(manifest("toy", api.namespace, replicas=3))
    eventually(lambda: count(api) == 3)
    api.apply(manifest("toy", api.namespace, engine={"args": ["--seed=1"]}))
    assert "replicas" not in api.get("llmd", "toy")["spec"]
    eventually(lambda: "--seed=1" in str(api.get("deployment", "toy")["spec"]["template"]))
    operator.settle()
    assert count(api) == 3


def test_deployment_made_again_starts_from_the_last_count(api: Api, operator: OperatorProcess):
    api.apply(manifest("toy", api.namespace))
    eventually(lambda: count(api) == 1)
    api.kubectl("scale", "deployment/toy", "--replicas=4")
    eventually(lambda: api.get("llmd", "toy")["status"]["desiredReplicas"] == 4)
    uid = api.get("deployment", "toy")["metadata"]["uid"]
    api.delete("deployment", "toy")

    def same_count_again() -> bool:
        found = api.get("deployment", "toy")
        return (
            found is not None and found["metadata"]["uid"] != uid and found["spec"]["replicas"] == 4
        )

    eventually(same_count_again)
