"""spec.podTemplate against a real API server: what it does, at what cost, and how it is refused."""

import pytest

from tests.builders import manifest
from tests.kube import Api, eventually
from tests.operator_process import OperatorProcess

RICH = {
    "metadata": {"labels": {"team": "search"}, "annotations": {"example.com/note": "x"}},
    "spec": {
        "nodeSelector": {"disk": "ssd"},
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["hub.example.com"]}],
        "imagePullSecrets": [{"name": "registry"}],
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "topologySpreadConstraints": [
            {"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 1},
            {"topologyKey": "host", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 1},
        ],
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu"}],
        "schedulingGates": [{"name": "example.com/hold"}],
        "securityContext": {"fsGroup": 65532},
        "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]},
        "initContainers": [
            {"name": "warm", "image": "busybox:1", "restartPolicy": "Always"},
        ],
        "containers": [
            {
                "name": "engine",
                "livenessProbe": {"$patch": "delete"},
                "env": [{"name": "HOME", "$patch": "delete"}, {"name": "TZ", "value": "UTC"}],
                "envFrom": [{"configMapRef": {"name": "extra", "optional": True}}],
                "ports": [{"containerPort": 9100}, {"containerPort": 9100, "protocol": "UDP"}],
                "resources": {"limits": {"cpu": "1000m"}, "claims": [{"name": "gpu"}]},
                "volumeMounts": [{"name": "token", "mountPath": "/token"}],
                "volumeDevices": [{"name": "block", "devicePath": "/dev/xvda"}],
            },
            {"name": "sidecar", "image": "busybox:1", "ports": [{"containerPort": 9200}]},
        ],
        "volumes": [
            {"name": "scratch", "emptyDir": {"sizeLimit": "5Gi"}},
            {"name": "block", "persistentVolumeClaim": {"claimName": "block"}},
            {
                "name": "token",
                "projected": {
                    "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]
                },
            },
        ],
    },
}


def template(api: Api):
    return api.get("deployment", "toy")["spec"]["template"]


def test_rich_template_is_applied_and_nothing_is_written_at_rest(api: Api, operator_process, audit):
    first = operator_process("one").start()
    api.apply(manifest("toy", api.namespace, podTemplate=RICH))
    pod = eventually(lambda: template(api))["spec"]
    engine, sidecar = pod["containers"]
    assert engine["name"] == "engine"
    assert sidecar["image"] == "busybox:1"
    assert "livenessProbe" not in engine
    assert [v["name"] for v in engine["env"]] == ["TZ"]
    assert [m["name"] for m in engine["volumeMounts"]] == ["token", "model", "scratch"]
    assert pod["securityContext"]["fsGroup"] == 65532
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert template(api)["metadata"]["labels"]["team"] == "search"
    api.wait_reason("toy", "Unschedulable")
    first.settle()  # its event comes after the status

    record = audit()
    passes = first.passes()
    api.patch("llmd", "toy", {"metadata": {"labels": {"touched": "yes"}}})
    first.settle(passes=int(passes) + 1)
    assert record.writes(namespace=api.namespace) == []
    assert first.stop() == 0
    second = operator_process("two").start()
    second.settle(passes=1)
    assert record.writes(namespace=api.namespace) == []

    # Another manager's item stays; ours comes back.
    selector = {"spec": {"template": {"spec": {"nodeSelector": {"disk": "hdd"}}}}}
    api.patch("deployment", "toy", selector)
    eventually(lambda: template(api)["spec"]["nodeSelector"] == {"disk": "ssd"})


def test_deletion_that_comes_by_an_update_changes_the_pods(api: Api, operator: OperatorProcess):
    """It must be part of what the kept template is known by."""
    api.apply(manifest("toy", api.namespace))
    eventually(lambda: "livenessProbe" in template(api)["spec"]["containers"][0])
    without = {"spec": {"containers": [{"name": "engine", "livenessProbe": {"$patch": "delete"}}]}}
    api.apply(manifest("toy", api.namespace, podTemplate=without))
    eventually(lambda: "livenessProbe" not in template(api)["spec"]["containers"][0])
    api.apply(manifest("toy", api.namespace))
    eventually(lambda: "livenessProbe" in template(api)["spec"]["containers"][0])


LOOSE = {"privileged": True, "allowPrivilegeEscalation": True}
PRIVILEGED = {"spec": {"containers": [{"name": "engine", "securityContext": LOOSE}]}}
HOST_PATH = {"spec": {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}}


@pytest.mark.parametrize("mode", ["warn", "enforce"])
@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (PRIVILEGED, "privileged"),
        (HOST_PATH, 'restricted volume types (volume "host"'),
    ],
    ids=["privileged", "hostPath"],
)
def test_what_pod_security_forbids_touches_nothing(
    api: Api, operator: OperatorProcess, mode, patch, message
):
    label = f"pod-security.kubernetes.io/{mode}=restricted"
    api.kubectl("label", "namespace", api.namespace, label)
    refused(api, patch, "would violate PodSecurity", message)


@pytest.mark.parametrize(
    ("patch", "messages"),
    [
        ({"spec": {"nosuch": 1}}, ["spec.podTemplate.spec.nosuch: field not declared in schema"]),
        (
            {"spec": {"containers": [{"name": "engine", "env": [{"name": "A", "valu": "1"}]}]}},
            [".valu: field not declared in schema"],
        ),
        ({"spec": {"dnsPolicy": "Nonsense"}}, ["spec.podTemplate.spec.dnsPolicy", "Nonsense"]),
        ({"spec": {"containers": [{"image": "x"}]}}, ["spec.containers[0].name is missing"]),
        ({"spec": {"containers": [{"name": "engine", "$patch": "delete"}]}}, ["must stay"]),
        ({"metadata": {"labels": {"not a key!": "x"}}}, ["not a key!"]),
        (
            {"spec": {"containers": [{"name": "engine", "resources": {"limits": {"memory": "much"}}}]}},
            ["a value has the wrong type", "quantities must match"],
        ),
    ],
    ids=["unknown", "unknown-in-item", "value", "no-name", "no-engine", "label", "type"],
)  # fmt: skip
def test_bad_template_touches_nothing(api: Api, operator: OperatorProcess, patch, messages):
    refused(api, patch, *messages)


def refused(api: Api, patch, *messages: str) -> None:
    """A serving LLMDeployment gets the patch: it says what is wrong, and all stays as it was."""
    api.apply(manifest("toy", api.namespace))
    api.wait_reason("toy", "Starting")
    api.become_ready("toy")
    before = api.get("deployment", "toy")["metadata"]["generation"]
    api.apply(manifest("toy", api.namespace, podTemplate=patch))
    condition = api.wait_reason("toy", "PodTemplateInvalid")
    for message in messages:
        assert message in condition["message"]
    assert api.condition("toy", "Available")["status"] == "True"
    assert api.condition("toy", "Stalled")["status"] == "True"
    assert api.get("deployment", "toy")["metadata"]["generation"] == before
    assert len(api.list("controllerrevisions", "serving.pagoda.dev/llmdeployment=toy")) == 1
    api.apply(manifest("toy", api.namespace))
    api.wait_reason("toy", "Ready")
    assert api.get("deployment", "toy")["metadata"]["generation"] == before
