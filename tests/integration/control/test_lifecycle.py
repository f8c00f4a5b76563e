"""A resource's life: made, kept, changed, deleted; and what that costs in writes."""

import pytest
from pagoda.controller.reconcile import FIRST_STATUS_SECONDS

from tests.builders import manifest
from tests.integration.control.restart import replace_operator
from tests.kube import Api, eventually
from tests.operator_process import OperatorProcess

CHILDREN = "deployments,services,serviceaccounts,poddisruptionbudgets,controllerrevisions"
SELECTOR = "serving.pagoda.dev/llmdeployment=toy"


def children(api: Api) -> list[str]:
    return sorted(obj["kind"] for obj in api.list(CHILDREN, SELECTOR))


ALL = ["ControllerRevision", "Deployment", "PodDisruptionBudget", "Service", "ServiceAccount"]


def test_becomes_ready_for_the_price_of_its_children_and_two_status_writes(
    api: Api, operator: OperatorProcess, audit
):
    operator.settle()
    record = audit()
    api.apply(manifest("toy", api.namespace))
    api.wait_reason("toy", "Starting")
    assert children(api) == ALL
    api.become_ready("toy")
    api.kubectl("wait", "--for=condition=Ready", "llmd/toy", "--timeout=5s")
    row = api.kubectl("get", "llmd", "toy").stdout.splitlines()[1].split()
    assert row[:5] == ["toy", "toy", "pagoda", "1/1", "Ready"]
    operator.settle()
    timed = record.timed_writes(namespace=api.namespace)
    writes = [w for w, _ in timed if " events " not in w]
    status = [(w, at) for w, at in timed if "llmdeployments/status" in w]
    # The first status waits for the pods; where that was in vain they cost one more.
    waited = status[0][1] - timed[0][1]
    assert len(status) <= (2 if waited < FIRST_STATUS_SECONDS else 3), timed
    assert len(writes) - len(status) == len(ALL), writes


@pytest.mark.parametrize(
    ("fields", "rehearsed"),
    [
        ({"replicas": 2, "rollout": {"drainSeconds": 5}}, False),
        ({"scheduling": {"tolerations": [{"operator": "Exists"}]}}, True),
    ],
)
def test_rehearsal_is_kept_for_what_only_the_api_server_can_judge(
    api: Api, operator: OperatorProcess, audit, fields, rehearsed
):
    record = audit()
    api.apply(manifest("toy", api.namespace, **fields))
    eventually(lambda: children(api) == ALL)
    assert bool(record.writes(namespace=api.namespace, dry_runs=True)) == rehearsed
    # What serves is never changed without one.
    api.apply(manifest("toy", api.namespace, **fields, engine={"args": ["--seed=1"]}))
    eventually(lambda: "--seed=1" in str(api.get("deployment", "toy")["spec"]["template"]))
    assert record.writes(namespace=api.namespace, dry_runs=True)


def test_names_are_looked_up_for_many_at_once(api: Api, operator: OperatorProcess):
    """A storm of new resources, with a foreign object in the way of one of them."""
    api.kubectl("create", "service", "clusterip", "toy-3", "--tcp=1:1")
    names = [f"toy-{number}" for number in range(12)]
    api.apply(
        {"apiVersion": "v1", "kind": "List", "items": [manifest(n, api.namespace) for n in names]}
    )
    free = [name for name in names if name != "toy-3"]
    eventually(lambda: {d["metadata"]["name"] for d in api.list("deployments")} == set(free))
    api.wait_reason("toy-3", "ResourceConflict")
    assert api.get("service", "toy-3")["spec"]["ports"][0]["port"] == 1


def test_at_rest_and_after_a_restart_nothing_is_written(api: Api, operator_process, audit):
    operator = operator_process().start()
    # 1000m and 0.5 are rewritten by the API server; that must not look like a drift.
    api.apply(
        manifest("toy", api.namespace, replicas=2, resources={"cpu": "1000m", "memory": "0.5Gi"})
    )
    api.wait_reason("toy", "Starting")
    api.become_ready("toy")
    operator.settle()
    record = audit()
    api.patch("llmd", "toy", {"metadata": {"labels": {"touched": "yes"}}})
    assert operator.stop() == 0
    for kind in ("deployment", "service"):  # something to look at after the restart
        api.patch(kind, "toy", {"metadata": {"annotations": {"their/own": "1"}}})
    replace_operator(api, operator, operator_process)
    assert record.writes(namespace=api.namespace) == []


def test_deleted_children_come_back(api: Api, operator: OperatorProcess):
    api.apply(manifest("toy", api.namespace))
    eventually(lambda: children(api) == ALL)
    for obj in api.list(CHILDREN, SELECTOR):
        uid = obj["metadata"]["uid"]
        kind, name = obj["kind"], obj["metadata"]["name"]
        api.delete(kind, name)

        def came_back(kind=kind, name=name, uid=uid) -> bool:
            found = api.get(kind, name)
            return found is not None and found["metadata"]["uid"] != uid

        eventually(came_back, what=f"{kind} comes back")


PORTS = [{"port": 81, "targetPort": "http", "name": "http"}]


@pytest.mark.parametrize(
    ("kind", "edit", "path"),
    [
        ("service", {"spec": {"ports": PORTS}}, "spec.ports"),
        ("service", {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}, "metadata.labels"),
        ("service", {"spec": {"selector": {"version": "v2"}}}, "spec.selector"),
        ("pdb", {"spec": {"minAvailable": 0}}, "spec.minAvailable"),
        ("deployment", {"spec": {"strategy": {"rollingUpdate": {"maxSurge": 3}}}}, "spec.strategy"),
        ("deployment", {"spec": {"replicas": 7}}, "spec.replicas"),
        (
            "deployment",
            {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}},
            "spec.template.spec.terminationGracePeriodSeconds",
        ),
    ],
)  # fmt: skip
def test_edits_of_our_fields_are_repaired(api: Api, operator: OperatorProcess, kind, edit, path):
    api.apply(manifest("toy", api.namespace, replicas=1))
    eventually(lambda: children(api) == ALL)
    operator.settle()

    def value():
        node = api.get(kind, "toy")
        for part in path.split("."):
            node = node[part]
        return node

    before = value()
    api.patch(kind, "toy", edit)
    eventually(lambda: value() == before, what=f"{path} is repaired")


def test_port_can_be_changed_after_a_repair(api: Api, operator: OperatorProcess):
    """The repair must not leave an owner behind who keeps the old port."""
    api.apply(manifest("toy", api.namespace))
    eventually(lambda: children(api) == ALL)
    api.patch("service", "toy", {"spec": {"ports": PORTS}})

    def ports() -> list[int]:
        return [port["port"] for port in api.get("service", "toy")["spec"]["ports"]]

    eventually(lambda: ports() == [80])
    api.apply(manifest("toy", api.namespace, expose={"service": {"port": 8080}}))
    eventually(lambda: ports() == [8080])
    eventually(lambda: api.get("llmd", "toy")["status"]["url"].endswith(":8080/v1"))


def test_quick_edits_end_in_the_last_one(api: Api, operator: OperatorProcess):
    """Edits that come in while a pass writes must not be lost with its answers."""
    for number in range(12):
        api.apply(manifest("toy", api.namespace, engine={"args": [f"--seed={number}"]}))

    def arrived() -> bool:
        assert api.condition("toy")["observedGeneration"] == 12
        return "--seed=11" in str(api.get("deployment", "toy")["spec"]["template"])

    eventually(arrived)


def test_unlabelled_controller_revision_is_found_again(api: Api, operator: OperatorProcess):
    api.apply(manifest("toy", api.namespace))
    api.wait_reason("toy", "Starting")
    (revision,) = api.list("controllerrevisions")
    name = revision["metadata"]["name"]
    api.patch("controllerrevision", name, {"metadata": {"labels": None}})
    eventually(lambda: children(api) == ALL, what="the label is back")
    operator.settle()
    assert api.condition("toy")["reason"] == "Starting"


def test_child_that_lost_its_owner_is_reported(api: Api, operator: OperatorProcess):
    api.apply(manifest("toy", api.namespace))
    eventually(lambda: children(api) == ALL)
    api.patch("service", "toy", {"metadata": {"ownerReferences": None}})
    api.wait_reason("toy", "ResourceConflict")


def test_own_service_account_outlives_a_switch_until_no_pod_uses_it(
    api: Api, operator: OperatorProcess
):
    api.apply(manifest("toy", api.namespace))
    api.wait_reason("toy", "Starting")
    api.become_ready("toy")
    api.apply(manifest("toy", api.namespace, serviceAccountName="not-there-yet"))
    eventually(lambda: "not-there-yet" in str(api.get("deployment", "toy")["spec"]["template"]))
    operator.settle()
    assert api.get("serviceaccount", "toy") is not None, "the old pod may have to be made again"
    api.kubectl("create", "serviceaccount", "not-there-yet")
    api.become_ready("toy", timeout=60)
    eventually(lambda: api.get("serviceaccount", "toy") is None)


def test_foreign_fields_are_left_alone(api: Api, operator: OperatorProcess):
    api.apply(manifest("toy", api.namespace))
    eventually(lambda: children(api) == ALL)
    api.patch("service", "toy", {"metadata": {"annotations": {"their/own": "1"}}})
    api.patch("service", "toy", {"spec": {"selector": {"serving.pagoda.dev/llmdeployment": "x"}}})
    eventually(
        lambda: (
            api.get("service", "toy")["spec"]["selector"]
            == {"serving.pagoda.dev/llmdeployment": "toy"}
        )
    )
    assert api.get("service", "toy")["metadata"]["annotations"]["their/own"] == "1"


def test_deletion_leaves_nothing(api: Api, operator: OperatorProcess):
    api.apply(manifest("toy", api.namespace))
    eventually(lambda: children(api) == ALL)
    assert "finalizers" not in api.get("llmd", "toy")["metadata"]
    api.delete("llmd", "toy")
    eventually(lambda: not children(api) and not api.list("pods,replicasets", SELECTOR))


def test_made_again_at_once_under_the_same_name(api: Api, operator: OperatorProcess):
    """Garbage collection of the first one's children must not stop or hit the second's."""
    api.apply(manifest("toy", api.namespace))
    eventually(lambda: children(api) == ALL)
    api.delete("llmd", "toy")
    api.apply(manifest("toy", api.namespace))
    uid = api.get("llmd", "toy")["metadata"]["uid"]

    def rebuilt() -> bool:
        found = api.list(CHILDREN, SELECTOR)
        owners = {obj["metadata"]["ownerReferences"][0]["uid"] for obj in found}
        return len(found) == len(ALL) and owners == {uid}

    eventually(rebuilt)
    api.wait_reason("toy", "Starting")


def test_namespace_goes_while_the_operator_is_down(api: Api, operator_process):
    operator = operator_process().start()
    api.apply(manifest("toy", api.namespace))
    eventually(lambda: children(api) == ALL)
    operator.kill()
    api.cluster.kubectl("delete", "namespace", api.namespace, "--timeout=60s")


def test_namespace_goes_while_the_operator_runs(api: Api, operator: OperatorProcess):
    api.apply(manifest("toy", api.namespace))
    eventually(lambda: children(api) == ALL)
    api.cluster.kubectl("delete", "namespace", api.namespace, "--timeout=60s")
    assert operator.healthy()
