"""The Ingress against a real API server: made, admitted, changed, removed; and its cost at rest."""

from tests.builders import manifest
from tests.integration.control.restart import replace_operator
from tests.kube import Api, eventually
from tests.operator_process import OperatorProcess

HOST = "toy.example.com"
ADMITTED = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}


def exposed(api: Api, **ingress):
    return manifest("toy", api.namespace, expose={"ingress": {"host": HOST} | ingress})


def make_class(api: Api, name: str, controller: str) -> None:
    spec = {"controller": controller}
    metadata = {"name": name}
    kind = {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass"}
    api.apply(kind | {"metadata": metadata, "spec": spec})


def annotations(api: Api) -> dict:
    return api.get("ingress", "toy")["metadata"]["annotations"]


def test_ingress_from_wish_to_removal(api: Api, operator: OperatorProcess):
    make_class(api, "public", "k8s.io/ingress-nginx")
    api.apply(exposed(api, className="public", tls={"secretName": "cert"}))
    api.wait_reason("toy", "Starting")
    assert api.condition("toy", "RoutesReady")["reason"] == "IngressPending"
    assert annotations(api)["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"
    assert api.get("llmd", "toy")["status"]["url"].startswith("http://toy.")
    api.patch("ingress", "toy", ADMITTED, subresource="status")
    eventually(lambda: api.condition("toy", "RoutesReady")["status"] == "True")
    status = api.get("llmd", "toy")["status"]
    assert status["url"] == f"https://{HOST}/v1"
    assert {a["name"] for a in status["addresses"]} == {"internal", "ingress"}

    api.apply(exposed(api, className="public", annotations={"a": "b"}))
    eventually(lambda: annotations(api).get("a") == "b")
    eventually(lambda: api.get("llmd", "toy")["status"]["url"] == f"http://{HOST}/v1")
    assert "tls" not in api.get("ingress", "toy")["spec"]

    api.apply(manifest("toy", api.namespace))
    eventually(lambda: api.get("ingress", "toy") is None)
    eventually(lambda: api.condition("toy", "RoutesReady")["reason"] == "ServiceReady")
    assert len(api.get("llmd", "toy")["status"]["addresses"]) == 1


def test_unknown_class_is_named(api: Api, operator: OperatorProcess):
    api.apply(exposed(api, className="no-such-class"))
    api.wait_reason("toy", "Starting")
    routes = api.condition("toy", "RoutesReady")
    assert (routes["status"], routes["reason"]) == ("False", "IngressClassNotFound")
    assert "kubectl get ingressclasses" in routes["message"]


def test_operator_of_one_namespace_goes_by_the_name(api: Api, operator_process):
    operator_process().start()
    api.apply(exposed(api, className="contour-2"))
    eventually(lambda: annotations(api)["projectcontour.io/response-timeout"] == "infinity")


def test_edits_of_the_rules_are_repaired(api: Api, operator: OperatorProcess):
    api.apply(exposed(api))
    eventually(lambda: api.get("ingress", "toy"))
    rules = api.get("ingress", "toy")["spec"]["rules"]
    api.patch("ingress", "toy", {"spec": {"rules": [rules[0] | {"host": "other.example.com"}]}})
    eventually(lambda: api.get("ingress", "toy")["spec"]["rules"] == rules)


def test_nothing_is_written_at_rest_or_after_a_restart(api: Api, operator_process, audit):
    first = operator_process("one").start()
    api.apply(exposed(api, className="nginx", tls={"secretName": "cert"}))
    api.wait_reason("toy", "Starting")
    api.patch("ingress", "toy", ADMITTED, subresource="status")
    eventually(lambda: api.condition("toy", "RoutesReady")["status"] == "True")
    eventually(lambda: api.get("llmd", "toy")["status"]["replicas"] == 1, what="its pod is told of")
    first.settle()
    record = audit()
    replace_operator(api, first, operator_process)
    assert record.writes(namespace=api.namespace) == []
