"""The chart as Helm renders it, and as a real API server takes it."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.cluster import Cluster, binary

Object = dict[str, Any]

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "pagoda"
NAMESPACE = "chart-test"


def helm_template(
    values: Mapping[str, Any] | None = None, *, release: str = "pagoda"
) -> subprocess.CompletedProcess[str]:
    command = [binary("helm"), "template", release, CHART, f"--namespace={NAMESPACE}"]
    return subprocess.run(
        [*command, "--values=-"], input=json.dumps(values or {}), capture_output=True, text=True
    )


def render(values: Mapping[str, Any] | None = None, *, release: str = "pagoda") -> list[Object]:
    done = helm_template(values, release=release)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def only(objects: list[Object], kind: str, name: str | None = None) -> Object:
    (found,) = (
        obj
        for obj in objects
        if obj["kind"] == kind and (name is None or obj["metadata"]["name"] == name)
    )
    return found


def rules(objects: list[Object]) -> list[Object]:
    return [
        rule
        for obj in objects
        if obj["kind"] in ("Role", "ClusterRole")
        and not any("aggregate-to" in label for label in obj["metadata"]["labels"])
        for rule in obj["rules"]
    ]


def test_crd_is_kept_and_otherwise_the_generated_one() -> None:
    generated = yaml.safe_load((ROOT / "crds/llmdeployments.serving.pagoda.dev.yaml").read_text())
    crd = only(render(), "CustomResourceDefinition")
    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert crd["spec"] == generated["spec"]

    crd = only(render({"crds": {"keep": False}}), "CustomResourceDefinition")
    assert "helm.sh/resource-policy" not in crd["metadata"].get("annotations", {})
    kinds = {obj["kind"] for obj in render({"crds": {"install": False}})}
    assert "CustomResourceDefinition" not in kinds


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["a", "b"]}], ids=["cluster", "some"])
def test_least_privilege(values: Mapping[str, Any]) -> None:
    for rule in rules(render(values)):
        resources = [*rule.get("resources", ()), *rule.get("nonResourceURLs", ())]
        everything = [*rule.get("apiGroups", ()), *resources, *rule["verbs"]]
        assert "*" not in everything
        if "secrets" in resources:  # the metrics server's own, and no right to make another
            assert rule["resourceNames"] == ["pagoda-metrics-server"]
            assert set(rule["verbs"]) == {"get", "list", "watch", "update"}
        assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(rule["verbs"])


def test_namespaced_mode_needs_nothing_cluster_wide() -> None:
    objects = render({"watchNamespaces": ["a", "b"], "crds": {"install": False}})
    assert not [obj["kind"] for obj in objects if obj["kind"].startswith("Cluster")]
    roles = [obj for obj in objects if obj["kind"] == "Role"]
    assert {role["metadata"]["namespace"] for role in roles} == {"a", "b", NAMESPACE}
    assert not [obj for obj in objects if "metrics-server" in obj["metadata"]["name"]]
    for binding in (obj for obj in objects if obj["kind"] == "RoleBinding"):
        (subject,) = binding["subjects"]
        assert subject["namespace"] == NAMESPACE
        assert subject["name"] == only(objects, "ServiceAccount")["metadata"]["name"]
    arguments = _container(objects)["args"]
    assert [a for a in arguments if a.startswith("--namespace=")] == [
        "--namespace=a",
        "--namespace=b",
    ]


def test_lease_is_the_one_the_role_allows() -> None:
    objects = render(release="mine")
    lease = {f"--lease-namespace={NAMESPACE}", "--lease-name=mine-pagoda-operator"}
    assert lease <= set(_container(objects)["args"])
    named = [r for r in rules(objects) if r.get("resources") == ["leases"] and "resourceNames" in r]
    assert [rule["resourceNames"] for rule in named] == [["mine-pagoda-operator"]]


@pytest.mark.parametrize("name", ["pagoda-operator", "pagoda-metrics-server"])
def test_pods_satisfy_restricted_pod_security(name: str) -> None:
    pod = only(render(), "Deployment", name)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert all(volume.keys() == {"name", "emptyDir"} for volume in pod["volumes"])
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_image_and_engine_values() -> None:
    container = _container(render())
    assert container["image"] == "pagoda:0.1.0"
    assert "--engine-image=pagoda=pagoda-runtime:0.1.0" in container["args"]
    assert "--engine-image=pagoda-gpu=pagoda-runtime:0.1.0-cuda" in container["args"]

    digest = f"sha256:{'a' * 64}"
    values = {
        "image": {"repository": "r.example/pagoda", "tag": "x", "digest": digest},
        "engines": {
            "pagoda": {"image": "r.example/engine:1"},
            "pagoda-gpu": {"image": "r.example/engine:1-gpu"},
        },
    }
    container = _container(render(values))
    assert container["image"] == f"r.example/pagoda@{digest}"
    assert "--engine-image=pagoda=r.example/engine:1" in container["args"]
    assert "--engine-image=pagoda-gpu=r.example/engine:1-gpu" in container["args"]


def test_monitors_are_off_unless_asked_for() -> None:
    assert not [obj for obj in render() if obj["kind"].endswith("Monitor")]
    metrics = {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}
    objects = render({"metrics": metrics})
    service = only(objects, "Service", "pagoda-operator-metrics")
    selected = only(objects, "ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
    assert selected <= service["metadata"]["labels"].items()
    assert only(objects, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"


@pytest.mark.parametrize("name", ["pagoda-operator", "pagoda-metrics-server"])
def test_spread_constraints_get_our_selector(name: str) -> None:
    deployment = only(render(), "Deployment", name)["spec"]
    (constraint,) = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert constraint["labelSelector"] == deployment["selector"]


@pytest.mark.parametrize(
    "values",
    [
        {"replicas": "two"},
        {"replica": 2},
        {"image": {"digest": "latest"}},
        {"watchNamespaces": ["Not_a_name"]},
        {"logLevel": "loud"},
        {"engines": {"nosuch": {"image": "x"}}},
        {"terminationGracePeriodSeconds": 5},
        {"metricsServer": {"enabled": "yes"}},
    ],
    ids=lambda values: next(iter(values)),
)
def test_schema_refuses(values: Mapping[str, Any]) -> None:
    done = helm_template(values)
    assert done.returncode != 0
    assert "schema" in done.stderr


def test_own_service_account_needs_a_name() -> None:
    done = helm_template({"serviceAccount": {"create": False}})
    assert "serviceAccount.name is needed" in done.stderr
    values = {"serviceAccount": {"create": False, "name": "mine"}}
    pod = only(render(values), "Deployment", "pagoda-operator")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "mine"


def test_api_server_accepts_it(control_plane: Cluster) -> None:
    """Also a namespace that enforces restricted pod security: its findings come as warnings."""
    namespaces = [NAMESPACE, "chart-watched"]
    for name in namespaces:
        control_plane.kubectl("create", "namespace", name)
        label = "pod-security.kubernetes.io/warn=restricted"
        control_plane.kubectl("label", "namespace", name, label)
    fenced = {"metricsServer": {"networkPolicy": {"enabled": True}}}
    for values in (fenced, {"watchNamespaces": ["chart-watched"]}):
        text = "\n---\n".join(json.dumps(obj) for obj in render(values))
        apply = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            "-",
        ]
        done = control_plane.kubectl(*apply, input=text)
        assert "warning" not in done.stderr.lower()


def test_metrics_server_is_led_to_and_owns_what_it_makes() -> None:
    name = "mine-pagoda-metrics-server"
    objects = render(release="mine")
    deployment = only(objects, "Deployment", name)["spec"]
    (container,) = deployment["template"]["spec"]["containers"]
    assert {
        f"--service={name}",
        f"--service-namespace={NAMESPACE}",
        f"--secret={name}",
        f"--owner={name}",
    } <= set(container["args"])
    assert deployment["replicas"] == 2
    # An operator's pod must not be asked for metrics, nor the other way round.
    selectors = [
        deployment["selector"]["matchLabels"],
        only(objects, "Service", name)["spec"]["selector"],
    ]
    selectors.append(only(objects, "PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"])
    others = only(objects, "Deployment", "mine-pagoda-operator")["spec"]["template"]["metadata"]
    for selector in selectors:
        assert selector.items() <= deployment["template"]["metadata"]["labels"].items()
        assert not selector.items() <= others["labels"].items()
    ports = {port["name"]: port["port"] for port in only(objects, "Service", name)["spec"]["ports"]}
    assert ports == {"https": 443, "metrics": 9090}
    assert "data" not in only(objects, "Secret", name), "an upgrade would empty it"
    # The operator may read the signals, whatever its account is called.
    values = {"serviceAccount": {"create": False, "name": "other"}}
    binding = only(render(values), "ClusterRoleBinding", "pagoda-metrics-server-signals")
    assert [subject["name"] for subject in binding["subjects"]] == ["other"]


def test_metrics_server_can_be_left_out_and_fenced_in() -> None:
    objects = render({"metricsServer": {"enabled": False}})
    assert not [obj for obj in objects if "metrics-server" in obj["metadata"]["name"]]
    assert not [obj for obj in render() if obj["kind"] == "NetworkPolicy"]
    policy = only(render({"metricsServer": {"networkPolicy": {"enabled": True}}}), "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def _container(objects: list[Object]) -> Object:
    (deployment,) = (
        obj
        for obj in objects
        if obj["kind"] == "Deployment" and obj["metadata"]["name"].endswith("-operator")
    )
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    found: Object = container
    return found
