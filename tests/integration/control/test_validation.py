"""What the API server refuses, and whether the message says what to change."""

import pytest

from tests.builders import manifest
from tests.kube import Api

UNKNOWN_ENGINE = 'spec.engine.type: Unsupported value: "nosuch": supported values: "pagoda", "vllm"'
BOTH = [{"name": "A", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
TWICE = [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"engine": {"type": "nosuch"}}, UNKNOWN_ENGINE),
        ({"replicas": -1}, "spec.replicas in body should be greater than or equal to 0"),
        ({"model": {"uri": "s3://a/b"}}, "spec.model.uri must look like pvc://CLAIM/PATH"),
        ({"model": {"uri": "hf://a/b/c"}}, "or hf://ORG/NAME, for example hf://Qwen/Qwen3-0.6B"),
        ({"model": {"uri": "pvc://m/x", "revision": "a"}}, "spec.model.revision belongs to hf://"),
        ({"model": {"uri": "pvc://m/x", "secretRef": {"name": "s"}}}, "secretRef belongs to hf://"),
        ({"parallelism": {"tensor": 2}}, "spec.parallelism.tensor above 1 needs GPUs"),
        ({"parallelism": {"tensor": 2}, "resources": {"gpu": {}}}, "must not exceed spec.resources.gpu"),
        ({"resources": {"gpu": {"count": 0}}}, "should be greater than or equal to 1"),
        ({"resources": {"gpu": {"resourceName": "gpu"}}}, "resourceName in body should match"),
        ({"resources": {"sharedMemory": "much"}}, "must be a quantity above zero"),
        ({"rollout": {"strategy": "Recreate"}}, "Unsupported value"),
        ({"expose": {"ingress": {}}}, "spec.expose.ingress.host: Required value"),
        ({"expose": {"ingress": {"host": "Not A Host"}}}, "host must be one DNS name in lower case"),
        ({"expose": {"ingress": {"host": "*.example.com"}}}, "IP address or wildcard"),
        ({"expose": {"ingress": {"host": "10.0.0.1"}}}, "IP address or wildcard"),
        ({"podTemplate": []}, "spec.podTemplate in body must be of type object"),
        ({"model": {"uri": "pvc://m/../x"}}, "must not contain '..'"),
        ({"model": {"uri": "pvc:///x"}}, "spec.model.uri must look like pvc://CLAIM/PATH"),
        ({"model": {}}, "spec.model.uri: Required value"),
        ({"replicas": 1, "autoscaling": {"maxReplicas": 3}}, "replicas and spec.autoscaling exclude"),
        ({"autoscaling": {}}, "spec.autoscaling.maxReplicas: Required value"),
        ({"autoscaling": {"maxReplicas": 3, "minReplicas": 4}}, "must not exceed spec.autoscaling.max"),
        ({"autoscaling": {"maxReplicas": 3, "minReplicas": 0}}, "minReplicas 0 needs a gateway"),
        ({"autoscaling": {"maxReplicas": 3, "mode": "Dry"}}, 'supported values: "Active", "Shadow"'),
        ({"replicaz": 1}, 'unknown field "spec.replicaz"'),
        ({"resources": {"cpu": "lots"}}, "must be a quantity above zero, for example 500m, 2 or 4Gi"),
        ({"resources": {"memory": "-1Gi"}}, "must be a quantity above zero"),
        ({"resources": {"cpu": 0}}, "must be a quantity above zero"),
        ({"engine": {"env": [{"name": "A", "valueFrom": {}}]}}, "set exactly one of secretKeyRef"),
        ({"engine": {"env": TWICE}}, "Duplicate value"),
        ({"engine": {"env": BOTH}}, "set either value or valueFrom of the variable, not both"),
        ({"engine": {"image": "Not An Image"}}, "spec.engine.image in body should match"),
        ({"serviceAccountName": "Not A Name"}, "spec.serviceAccountName in body should match"),
        ({"rollout": {"progressDeadlineSeconds": 1}}, "should be greater than or equal to 10"),
        ({"expose": {"service": {"type": "Magic"}}}, "Unsupported value"),
        ({"expose": {"service": {"port": 70000}}}, "should be less than or equal to 65535"),
    ],
)  # fmt: skip
def test_refused(api: Api, fields, message):
    assert message in api.refused(manifest(namespace=api.namespace, **fields))


@pytest.mark.parametrize("name", ["1toy", "a" * 53, "to.y"])
def test_name_is_refused(api: Api, name):
    message = api.refused(manifest(name, api.namespace))
    assert "at most 52 characters; put the model's name in spec.model.name" in message


def test_everything_at_once_is_accepted(api: Api):
    api.apply(
        manifest(
            "a" * 52,
            api.namespace,
            model={"uri": "pvc://m/a/b.c", "name": "org/model:1"},
            engine={
                "type": "pagoda",
                "image": "reg/x:1",
                "imagePullSecrets": [{"name": "pull"}],
                "args": ["--max-num-seqs=4"],
                "env": [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            },
            resources={"cpu": 2, "memory": "4Gi"},
            replicas=0,
            rollout={"drainSeconds": 0, "progressDeadlineSeconds": 10, "rendering": "x"},
            expose={"service": {"type": "NodePort", "port": 8080, "annotations": {"a": "b"}}},
            scheduling={"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}]},
            serviceAccountName="mine",
        )
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["pagoda", "vllm"])
def test_every_engine_takes_gpus(api: Api, kind):
    gpus = {"resources": {"gpu": {"count": 2}}, "parallelism": {"tensor": 2}}
    api.apply(manifest("toy", api.namespace, engine={"type": kind}, **gpus))


def test_explain_reads_well(api: Api):
    text = api.kubectl("explain", "llmd.spec.model").stdout
    assert "pvc://CLAIM/PATH" in text
    assert "Default: metadata.name" in text


def test_scale_subresource_and_short_name(api: Api):
    api.apply(manifest("toy", api.namespace))
    api.kubectl("scale", "llmd/toy", "--replicas=3")
    assert api.get("llmd", "toy")["spec"]["replicas"] == 3
    assert "toy" in api.kubectl("get", "llm").stdout
