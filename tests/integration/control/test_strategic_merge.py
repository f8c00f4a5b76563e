"""Our strategic merge against kubectl's, and our merge keys against the API server's OpenAPI."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pagoda.controller.projection import ATOMIC, MERGE_KEYS, PORT_KEYS
from pagoda.render.strategic_merge import PATCH_MERGE_KEYS, strategic_merge

from dev.cluster import Cluster, binary

TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"app": "x"}},
    "spec": {
        "terminationGracePeriodSeconds": 80,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "engine",
                "image": "a",
                "args": ["serve", "--port", "8000"],
                "env": [{"name": n, "value": n.lower()} for n in "ABC"],
                "ports": [{"name": "http", "containerPort": 8000, "protocol": "TCP"}],
                "volumeMounts": [
                    {"name": "m", "mountPath": "/m"},
                    {"name": "t", "mountPath": "/t"},
                ],
                "livenessProbe": {"httpGet": {"path": "/livez", "port": "http"}},
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
            }
        ],
        "volumes": [
            {"name": "m", "persistentVolumeClaim": {"claimName": "c", "readOnly": True}},
            {"name": "t", "emptyDir": {"sizeLimit": "1Gi"}},
        ],
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "topologySpreadConstraints": [
            {"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 1}
        ],
    },
}


def pod(**fields: Any) -> dict[str, Any]:
    return {"spec": fields}


def engine(**fields: Any) -> dict[str, Any]:
    return pod(containers=[{"name": "engine"} | fields])


PATCHES: list[dict[str, Any]] = [
    {"metadata": {"labels": {"team": "search"}, "annotations": {"a": "b"}}},
    {"metadata": {"labels": {"app": None}}},
    {"spec": {"nodeSelector": {"disk": "ssd"}, "hostNetwork": True, "dnsPolicy": "Default"}},
    {"spec": {"tolerations": [{"key": "other"}]}},
    {"spec": {"tolerations": []}},
    {"spec": {"tolerations": None}},
    {"spec": {"containers": [{"name": "side", "image": "s"}]}},
    {"spec": {"containers": [{"name": "side", "image": "s"}, {"name": "engine", "image": "b"}]}},
    {"spec": {"initContainers": [{"name": "init", "image": "i", "restartPolicy": "Always"}]}},
    engine(args=["other"], command=["x"]),
    engine(env=[{"name": "N", "value": "n"}, {"name": "B", "value": "z"}]),
    engine(env=[{"name": "C", "value": "1"}, {"name": "N", "value": "n"}, {"name": "A", "value": "2"}]),
    engine(env=[{"name": "B", "$patch": "delete"}, {"name": "D", "value": "d"}]),
    engine(env=[{"$patch": "replace"}, {"name": "D", "value": "d"}]),
    engine(env=[{"name": "B", "value": None, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]),
    engine(ports=[{"name": "other", "containerPort": 9000}]),
    engine(ports=[{"containerPort": 8000, "hostPort": 80}]),
    engine(volumeMounts=[{"mountPath": "/t", "$patch": "delete"}, {"mountPath": "/n", "name": "t"}]),
    engine(livenessProbe=None, resources={"limits": {"gpu": "1"}}),
    engine(livenessProbe={"$patch": "replace", "exec": {"command": ["true"]}}),
    pod(volumes=[{"name": "m", "persistentVolumeClaim": None, "emptyDir": {"medium": "Memory"}}]),
    pod(volumes=[{"name": "m", "$patch": "delete"}, {"name": "m", "configMap": {"name": "y"}}]),
    pod(volumes=[{"name": "s", "secret": {"secretName": "y", "items": [{"key": "k"}]}}]),
    pod(hostAliases=[{"ip": "10.0.0.1", "hostnames": ["a"]}], imagePullSecrets=[{"name": "r"}]),
    {"spec": {"topologySpreadConstraints": [
        {"topologyKey": "zone", "maxSkew": 2},
        {"topologyKey": "host", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 1},
    ]}},
    {"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}}}},
]  # fmt: skip


def kubectls(original: dict[str, Any], patch: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What kubectl makes of it, without an API server."""
    obj = {
        "apiVersion": "v1",
        "kind": "PodTemplate",
        "metadata": {"name": "x"},
        "template": original,
    }
    (folder / "object.json").write_text(json.dumps(obj))
    (folder / "patch.json").write_text(json.dumps({"template": patch}))
    command = [binary("kubectl"), "patch", "--local", "--type=strategic", "-o", "json"]
    command += ["-f", folder / "object.json", "--patch-file", folder / "patch.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout)["template"])


def without_empty(value: Any) -> Any:
    """kubectl leaves nulls and marked items in new items, and `{}` where a map was deleted."""
    if isinstance(value, dict):
        kept = {key: without_empty(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not None and item != {}}
    if isinstance(value, list):
        return [without_empty(i) for i in value if not (isinstance(i, dict) and "$patch" in i)]
    return value


@pytest.mark.parametrize("patch", PATCHES, ids=json.dumps)
def test_as_kubectl(patch: dict[str, Any], tmp_path: Path):
    before = json.dumps(TEMPLATE)
    ours = without_empty(strategic_merge(TEMPLATE, patch))
    assert ours == without_empty(kubectls(TEMPLATE, patch, tmp_path))
    assert json.dumps(TEMPLATE) == before, "the original is left alone"


MAP_TYPE = "x-kubernetes-map-type"
NAMES = st.sampled_from("abcd")
VALUES = st.none() | st.sampled_from(["1", "2"])


def keyed(key: str, names: Any, **fields: Any) -> Any:
    """A list of a patch: changed, new and deleted items, or the whole list replaced."""
    change = st.fixed_dictionaries({key: names}, optional=fields)
    delete = st.fixed_dictionaries({key: names, "$patch": st.just("delete")})
    items = st.lists(change | delete, max_size=4, unique_by=lambda item: item[key])
    return items | items.map(
        lambda i: [{"$patch": "replace"}, *(x for x in i if "$patch" not in x)]
    )


def items(key: str, names: Any, **fields: Any) -> Any:
    """A list of an original."""
    made = st.fixed_dictionaries({key: names}, optional=fields)
    return st.lists(made, max_size=4, unique_by=lambda item: item[key])


def template(listed: Any, value: Any) -> Any:
    env = listed("name", NAMES, value=value)
    ports = listed("containerPort", st.integers(1, 4), name=value)
    lists = {"env": env, "ports": ports, "image": value, "args": st.lists(st.just("x"), max_size=2)}
    containers = listed("name", NAMES, **lists)
    volumes = listed("name", NAMES, hostPath=st.fixed_dictionaries({"path": st.just("/p")}))
    spec = {"containers": containers, "volumes": volumes, "nodeName": value}
    return st.fixed_dictionaries({"spec": st.fixed_dictionaries({}, optional=spec)})


@settings(
    max_examples=30,
    deadline=None,
    phases=[Phase.generate],  # a process for each example: shrinking would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(template(items, st.just("0")), template(keyed, VALUES))
def test_as_kubectl_for_any(tmp_path: Path, original: dict[str, Any], patch: dict[str, Any]):
    ours = without_empty(strategic_merge(original, patch))
    assert ours == without_empty(kubectls(original, patch, tmp_path))


def fields_of_a_pod(
    cluster: Cluster, *, enter_atomic: bool = True
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Each field in a pod template, with its schema and that of its type."""
    document = cluster.kubectl("get", "--raw", "/openapi/v2").stdout
    types = json.loads(document)["definitions"]
    todo, seen = ["io.k8s.api.core.v1.PodSpec"], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for field, schema in types[name].get("properties", {}).items():
            inner = schema.get("items", schema)
            target = inner.get("$ref", "").removeprefix("#/definitions/")
            yield field, schema, types.get(target, {})
            kinds = {schema.get("x-kubernetes-list-type"), types.get(target, {}).get(MAP_TYPE)}
            if target and (enter_atomic or "atomic" not in kinds | {schema.get(MAP_TYPE)}):
                todo.append(target)


def test_patch_merge_keys_are_the_api_servers(shared_cluster: Cluster):
    found = {
        field: schema["x-kubernetes-patch-merge-key"]
        for field, schema, _ in fields_of_a_pod(shared_cluster)
        if "x-kubernetes-patch-merge-key" in schema and field != "ownerReferences"
    }
    lists = {f for f, s, _ in fields_of_a_pod(shared_cluster) if s.get("type") == "array"}
    assert found == PATCH_MERGE_KEYS
    assert lists >= found.keys()
    # The table goes by a field's name alone, so a name must merge in the same way everywhere.
    replaced = {
        field
        for field, schema, _ in fields_of_a_pod(shared_cluster)
        if schema.get("type") == "array" and "x-kubernetes-patch-merge-key" not in schema
    }
    assert not replaced & found.keys()


def test_list_and_map_types_are_the_api_servers(shared_cluster: Cluster):
    """What server-side apply merges by key, and what it replaces, as the projection knows it."""
    keys: dict[str, tuple[str, ...]] = {}
    atomic, granular = set(), set()
    for field, schema, target in fields_of_a_pod(shared_cluster, enter_atomic=False):
        if schema.get("type") == "array":
            if schema.get("x-kubernetes-list-type") == "map":
                keys[field] = tuple(schema["x-kubernetes-list-map-keys"])
        elif "atomic" in (schema.get(MAP_TYPE), target.get(MAP_TYPE)):
            atomic.add(field)
        elif target or schema.get("type") == "object":
            granular.add(field)
    ports = keys.pop("ports")
    assert ports == PORT_KEYS[0]
    assert keys.items() <= MERGE_KEYS.items()
    assert atomic == ATOMIC
    assert not granular & ATOMIC
