"""Suspension frees what replicas hold and keeps all the rest; a resume brings the count back."""

from tests.builders import manifest
from tests.integration.control.restart import replace_operator
from tests.kube import Api, eventually
from tests.operator_process import OperatorProcess


def count(api: Api) -> int:
    return int(api.get("deployment", "toy")["spec"]["replicas"])


def suspend(api: Api, value: bool) -> None:
    api.patch("llmd", "toy", {"spec": {"suspend": value}})


def test_fixed_count_comes_back(api: Api, operator: OperatorProcess):
    api.apply(manifest("toy", api.namespace, replicas=3))
    api.wait_reason("toy", "Starting")
    api.become_ready("toy")
    suspend(api, True)
    condition = api.wait_reason("toy", "Suspended")
    assert condition["status"] == "False"
    assert "spec.suspend to false" in condition["message"]
    eventually(lambda: not api.list("pods"))
    assert count(api) == 0
    assert api.get("service", "toy") is not None

    def shown() -> list[str]:  # the replicas go after the first status that tells of it
        return list(api.kubectl("get", "llmd", "toy").stdout.splitlines()[1].split())

    eventually(lambda: shown()[3:5] == ["0/0", "Suspended"])
    suspend(api, False)
    eventually(lambda: count(api) == 3)
    api.become_ready("toy")


def test_count_of_another_scaler_comes_back_also_after_a_restart_and_an_edit(
    api: Api, operator_process
):
    first = operator_process("one").start()
    api.apply(manifest("toy", api.namespace))
    api.wait_reason("toy", "Starting")
    api.kubectl("scale", "deployment/toy", "--replicas=4")
    eventually(lambda: api.get("llmd", "toy")["status"]["desiredReplicas"] == 4)
    suspend(api, True)
    api.wait_reason("toy", "Suspended")
    eventually(lambda: count(api) == 0)
    first.kill()
    second = operator_process("two").start()
    second.settle(passes=1)
    api.apply(manifest("toy", api.namespace, suspend=True, engine={"args": ["--seed=1"]}))
    eventually(lambda: "--seed=1" in str(api.get("deployment", "toy")["spec"]["template"]))
    assert count(api) == 0
    assert api.get("llmd", "toy")["status"]["desiredReplicas"] == 4
    suspend(api, False)
    eventually(lambda: count(api) == 4)
    api.kubectl("scale", "deployment/toy", "--replicas=2")
    eventually(lambda: api.get("llmd", "toy")["status"]["desiredReplicas"] == 2)
    assert count(api) == 2, "the count is the other scaler's again"


def test_suspended_at_creation_makes_no_deployment(api: Api, operator: OperatorProcess):
    api.apply(manifest("toy", api.namespace, replicas=2, suspend=True))
    api.wait_reason("toy", "Suspended")
    operator.settle()
    assert api.get("deployment", "toy") is None
    assert not api.list("pods,replicasets")
    suspend(api, False)
    eventually(lambda: count(api) == 2)
    api.become_ready("toy")


def test_suspension_costs_no_write_at_rest(api: Api, operator_process, audit):
    operator = operator_process().start()
    api.apply(manifest("toy", api.namespace, replicas=2))
    api.wait_reason("toy", "Starting")
    suspend(api, True)
    api.wait_reason("toy", "Suspended")
    eventually(lambda: not api.list("pods"))
    eventually(lambda: api.get("llmd", "toy")["status"]["replicas"] == 0, what="that is told")
    operator.settle()
    record = audit()
    replace_operator(api, operator, operator_process)
    assert record.writes(namespace=api.namespace) == []
