"""Leaders that stop, die or freeze; an API server that restarts."""

import signal

import pytest

from tests.builders import manifest
from tests.kube import Api, eventually
from tests.operator_process import OperatorProcess


def deployment_exists(api: Api, name: str) -> bool:
    return api.get("deployment", name) is not None


# A leader that is told to stop hands its Lease back: nobody waits for it to run out.
LONG_LEASE = {"lease_duration_seconds": "60", "lease_renew_deadline_seconds": "40"}


@pytest.mark.parametrize(("how", "flags"), [("stop", LONG_LEASE), ("kill", {})])
def test_standby_takes_over(api: Api, operator_process, how, flags):
    first = operator_process("first", **flags).start()
    eventually(first.leads)
    second = operator_process("second", **flags).start()
    assert second.ready(), "a standby with a full cache is ready"
    assert not second.leads()
    getattr(first, how)()
    eventually(second.leads, timeout=30)
    api.apply(manifest("toy", api.namespace))
    eventually(lambda: deployment_exists(api, "toy"))


def test_frozen_leader_does_not_write_when_it_wakes(api: Api, operator_process):
    first = operator_process("first").start()
    eventually(first.leads)
    second = operator_process("second").start()
    first.signal(signal.SIGSTOP)
    try:
        eventually(second.leads, timeout=30)
        api.apply(manifest("toy", api.namespace))
        eventually(lambda: deployment_exists(api, "toy"))
        second.settle(passes=1)
        created = api.get("deployment", "toy")["metadata"]["uid"]
        # Work waits for the first one when it wakes: a child to bring back, and nobody else to do it.
        second.kill()
        api.delete("service", "toy")
    finally:
        first.signal(signal.SIGCONT)
    code = first.process.wait(timeout=20)
    assert code == 1, "a leader that lost its Lease ends"
    assert "ending" in first.log
    assert api.get("service", "toy") is None, "it wrote nothing"
    assert api.get("deployment", "toy")["metadata"]["uid"] == created


def test_killed_operator_comes_back_to_work_done_meanwhile(api: Api, operator_process):
    first = operator_process("first").start()
    api.apply(manifest("toy", api.namespace))
    api.apply(manifest("gone", api.namespace))
    eventually(lambda: deployment_exists(api, "toy") and deployment_exists(api, "gone"))
    first.kill()
    api.delete("service", "toy")
    api.delete("llmd", "gone")
    api.apply(manifest("new", api.namespace))
    operator_process("second").start()
    eventually(lambda: deployment_exists(api, "new") and api.get("service", "toy"), timeout=30)
    eventually(lambda: not deployment_exists(api, "gone"))


def test_survives_an_api_server_restart(api: Api, operator_process):
    operator = operator_process().start()
    api.apply(manifest("before", api.namespace))
    eventually(lambda: deployment_exists(api, "before"))
    api.cluster.restart_apiserver()
    api.apply(manifest("after", api.namespace))

    def arrived() -> bool:
        if operator.process.poll() is not None:  # its Lease ran out meanwhile, as it may
            operator.start()  # a pod would be started again
        return deployment_exists(api, "after")

    eventually(arrived, timeout=40)


def test_unlabelled_child_is_taken_back(api: Api, operator: OperatorProcess):
    """Without our label the watch no longer shows the child; it must be found by name."""
    api.apply(manifest("toy", api.namespace))
    eventually(lambda: deployment_exists(api, "toy"))
    api.patch("deployment", "toy", {"metadata": {"labels": None}})
    eventually(
        lambda: (
            api.get("deployment", "toy")["metadata"]["labels"].get("app.kubernetes.io/managed-by")
            == "pagoda"
        )
    )


def test_port_edited_while_the_operator_was_down_is_repaired(api: Api, operator_process):
    first = operator_process("first").start()
    api.apply(manifest("toy", api.namespace))
    eventually(lambda: api.get("service", "toy"))
    first.stop()
    ports = [{"port": 81, "targetPort": "http", "name": "http"}]
    api.patch("service", "toy", {"spec": {"ports": ports}})
    operator_process("second").start()
    eventually(lambda: [p["port"] for p in api.get("service", "toy")["spec"]["ports"]] == [80])
    eventually(lambda: api.condition("toy")["reason"] == "Starting")
