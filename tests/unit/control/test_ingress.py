"""The Ingress: what it becomes by class, and what status says of it."""

from pathlib import Path

import pytest
from pagoda.controller.routes import observe_routes
from pagoda.render.ingress import FAMILIES, UNKNOWN_CLASS, IngressClassFact

from tests.builders import only, plan

DOCS = Path(__file__).parents[3] / "docs" / "ingress.md"
HOST = {"host": "llm.example.com"}


def made(*, known=UNKNOWN_CLASS, **ingress):
    return plan(ingress_class=known, expose={"ingress": HOST | ingress})


def annotations(**kwargs):
    return only(made(**kwargs), "Ingress")["metadata"].get("annotations", {})


def test_whole_host_goes_to_the_service_by_its_port_name():
    spec = only(made(className="nginx"), "Ingress")["spec"]
    assert spec["ingressClassName"] == "nginx"
    (rule,) = spec["rules"]
    assert rule["host"] == "llm.example.com"
    (path,) = rule["http"]["paths"]
    assert path["backend"] == {"service": {"name": "toy", "port": {"name": "http"}}}
    assert (path["path"], path["pathType"]) == ("/", "Prefix")
    assert "tls" not in spec


def test_default_class_is_left_to_the_cluster():
    assert "ingressClassName" not in only(made(), "Ingress")["spec"]


def test_tls_names_host_and_secret_and_makes_the_url_https():
    whole = made(tls={"secretName": "cert"})
    spec = only(whole, "Ingress")["spec"]
    assert spec["tls"] == [{"hosts": ["llm.example.com"], "secretName": "cert"}]
    assert whole.ingress_url == "https://llm.example.com/v1"
    assert made().ingress_url == "http://llm.example.com/v1"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.hint)
def test_family_is_known_by_its_controller_else_by_its_name(family):
    known = IngressClassFact(controller=f"{family.controller}x")
    assert annotations(className="public", known=known) == family.annotations
    assert annotations(className=f"our-{family.hint}-2") == family.annotations


def test_controller_counts_more_than_the_name():
    known = IngressClassFact(controller="example.com/own")
    assert annotations(className="nginx", known=known) == {}


def test_users_annotations_win():
    key = "nginx.ingress.kubernetes.io/proxy-read-timeout"
    assert annotations(className="nginx", annotations={key: "60", "a": "b"})[key] == "60"


def test_no_ingress_unless_asked_for():
    assert "Ingress" not in {obj["kind"] for obj in plan().objects}


def test_ingress_touches_no_pod():
    assert made(className="nginx").choice.revision == plan().choice.revision


ADMITTED = {"status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}, {"hostname": "lb.x"}]}}}
INTERNAL = "http://toy.default.svc/v1"
OUTER = "http://llm.example.com/v1"


@pytest.mark.parametrize(
    ("whole", "ingress", "status", "reason", "url"),
    [
        (plan(), None, "True", "ServiceReady", INTERNAL),
        (made(), None, "Unknown", "IngressPending", INTERNAL),
        (made(), {"status": {"loadBalancer": {}}}, "Unknown", "IngressPending", INTERNAL),
        (made(), ADMITTED, "True", "IngressAdmitted", OUTER),
        (made(known=IngressClassFact(is_missing=True)), None, "False", "IngressClassNotFound", INTERNAL),
        (made(known=IngressClassFact(is_missing=True)), ADMITTED, "True", "IngressAdmitted", OUTER),
    ],
)  # fmt: skip
def test_routes(whole, ingress, status, reason, url):
    routes = observe_routes(whole, has_service=True, ingress=ingress)
    assert routes.ready[:2] == (status, reason)
    assert routes.url == url
    names = ["internal", "ingress"] if whole.ingress_url else ["internal"]
    assert [address.name for address in routes.addresses] == names


def test_address_of_the_controller_is_told():
    text = observe_routes(made(), has_service=True, ingress=ADMITTED).ready[2]
    assert text == "The Ingress is served at 10.0.0.1, lb.x."


def test_docs_have_every_family_and_annotation():
    text = DOCS.read_text()
    for family in FAMILIES:
        assert f"`{family.controller}`" in text
        for key, value in family.annotations.items():
            assert f"`{key}: {value}`" in text
