"""Pinned templates, bad specs and names that are taken."""

from tests.builders import manifest
from tests.kube import Api, eventually
from tests.operator_process import OperatorProcess


def image(api: Api) -> str:
    template = api.get("deployment", "toy")["spec"]["template"]
    return str(template["spec"]["containers"][0]["image"])


def test_operator_upgrade_restarts_no_pod_and_offers_the_newer_rendering(
    api: Api, operator_process, audit
):
    first = operator_process("v1", engine_image="pagoda=engine:1").start()
    api.apply(manifest("toy", api.namespace))
    api.wait_reason("toy", "Starting")
    api.become_ready("toy")
    assert first.stop() == 0
    generation = api.get("deployment", "toy")["metadata"]["generation"]

    record = audit()
    second = operator_process("v2", engine_image="pagoda=engine:2").start()
    offered = eventually(
        lambda: api.get("llmd", "toy")["status"]["rendering"].get("available"),
        what="the newer rendering is shown",
    )
    second.settle(passes=1)
    assert api.get("deployment", "toy")["metadata"]["generation"] == generation
    assert image(api) == "engine:1"
    assert record.writes(namespace=api.namespace) == ["patch llmdeployments/status toy"]
    assert api.condition("toy")["status"] == "True"

    api.apply(manifest("toy", api.namespace, rollout={"rendering": offered}))
    eventually(lambda: image(api) == "engine:2")
    api.become_ready("toy")
    assert "available" not in api.get("llmd", "toy")["status"]["rendering"]
    revisions = api.list("controllerrevisions", "serving.pagoda.dev/llmdeployment=toy")
    assert len(revisions) == 1, "the old template is not kept"


def test_lost_controller_revision_restarts_no_pod(api: Api, operator_process):
    first = operator_process("v1", engine_image="pagoda=engine:1").start()
    api.apply(manifest("toy", api.namespace))
    api.wait_reason("toy", "Starting")
    first.stop()
    api.kubectl("delete", "controllerrevisions", "--all")
    second = operator_process("v2", engine_image="pagoda=engine:2").start()
    eventually(lambda: api.list("controllerrevisions", "serving.pagoda.dev/llmdeployment=toy"))
    second.settle(passes=1)
    assert image(api) == "engine:1"


def test_roll_out_goes_through_updating_to_ready(api: Api, operator: OperatorProcess):
    api.apply(manifest("toy", api.namespace, replicas=2))
    api.wait_reason("toy", "Starting")
    api.become_ready("toy")
    api.apply(manifest("toy", api.namespace, replicas=2, engine={"args": ["--seed=1"]}))
    updating = api.wait_reason("toy", "RollingOut")
    assert updating["status"] == "False"
    assert api.condition("toy", "Available")["status"] == "True"
    api.become_ready("toy")


def test_rejected_template_leaves_pods_alone_and_recovers(api: Api, operator: OperatorProcess):
    api.apply(manifest("toy", api.namespace))
    api.wait_reason("toy", "Starting")
    api.become_ready("toy")
    generation = api.get("deployment", "toy")["metadata"]["generation"]
    bad = {"tolerations": [{"key": "a", "operator": "Nonsense"}]}
    api.apply(manifest("toy", api.namespace, scheduling=bad))
    stalled = api.wait_reason("toy", "InvalidSpec")
    assert "Nonsense" in stalled["message"]
    assert api.condition("toy", "Stalled")["status"] == "True"
    assert api.condition("toy", "Available")["status"] == "True"
    assert api.get("deployment", "toy")["metadata"]["generation"] == generation
    api.apply(manifest("toy", api.namespace))
    api.wait_reason("toy", "Ready")
    assert api.get("deployment", "toy")["metadata"]["generation"] == generation


def test_bad_service_touches_no_pod_either(api: Api, operator: OperatorProcess):
    """One edit with a good change of the pods and a bad one of the Service does nothing at all."""
    api.apply(manifest("toy", api.namespace))
    api.wait_reason("toy", "Starting")
    api.become_ready("toy")
    generation = api.get("deployment", "toy")["metadata"]["generation"]
    bad = {"service": {"annotations": {"not a key!": "x"}}}
    api.apply(manifest("toy", api.namespace, engine={"args": ["--seed=1"]}, expose=bad))
    assert "not a key!" in api.wait_reason("toy", "InvalidSpec")["message"]
    assert api.get("deployment", "toy")["metadata"]["generation"] == generation
    assert len(api.list("controllerrevisions", "serving.pagoda.dev/llmdeployment=toy")) == 1


def test_field_unknown_to_pods_is_an_invalid_spec_and_no_outage(
    api: Api, operator: OperatorProcess
):
    """A server-side apply of an unknown field is answered with 500."""
    api.apply(manifest("toy", api.namespace, scheduling={"affinity": {"nosuch": {}}}))
    assert "nosuch" in api.wait_reason("toy", "InvalidSpec")["message"]


def test_foreign_object_of_the_name_is_not_adopted(api: Api, operator: OperatorProcess):
    api.kubectl("create", "service", "clusterip", "toy", "--tcp=1:1")
    api.apply(manifest("toy", api.namespace))
    conflict = api.wait_reason("toy", "ResourceConflict")
    assert "Service toy exists and does not belong to this LLMDeployment" in conflict["message"]
    assert api.get("service", "toy")["spec"]["ports"][0]["port"] == 1
    assert api.get("deployment", "toy") is None, "nothing is made beside the conflict"
    api.delete("service", "toy")
    api.wait_reason("toy", "Starting")


def test_pod_causes_show(api: Api, operator: OperatorProcess):
    """The causes a kubelet reports end in the reason within seconds."""
    api.apply(manifest("toy", api.namespace))
    api.wait_reason("toy", "Starting")
    (pod,) = eventually(lambda: api.list("pods", "serving.pagoda.dev/llmdeployment=toy"))
    name = pod["metadata"]["name"]

    def report(state):
        status = {"name": "engine", "image": "i", "imageID": "", "ready": False, "restartCount": 3}
        api.patch(
            "pod", name, {"status": {"containerStatuses": [status | state]}}, subresource="status"
        )

    report({"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}})
    assert "no such image" in api.wait_reason("toy", "ImagePullFailed")["message"]
    ended = {"exitCode": 1, "reason": "Error", "message": "bad weights, token=abcdefghi"}
    report(
        {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": ended}}
    )
    message = api.wait_reason("toy", "EngineCrashed")["message"]
    assert "bad weights" in message
    assert "abcdefghi" not in message
