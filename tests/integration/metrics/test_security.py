"""Who may ask, and who is believed, in front of the real API server."""

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from dev.cluster import ClusterError
from dev.cluster.pki import Authority
from tests.integration.metrics.conftest import (
    GROUP_PATH,
    raw,
)
from tests.kube import Api, eventually
from tests.metrics_server_process import MetricsServerProcess

Shared = tuple[Api, MetricsServerProcess]

NOBODY = {"X-Remote-User": "nobody", "X-Remote-Group": "none"}
ADMIN = {"X-Remote-User": "admin", "X-Remote-Group": "system:masters"}
SIGNALS = f"{GROUP_PATH}/signals"


@contextmanager
def client(
    server: MetricsServerProcess, authority: Path | None = None, name: str = "", *, made: str = ""
) -> Iterator[httpx.Client]:
    """A caller, with a certificate of an authority in a folder if one is named."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if authority is not None:
        pair = Authority(authority.parent, authority.stem).issue(made or f"test-{name}", name)
        context.load_cert_chain(pair.certificate, pair.key)
    with httpx.Client(base_url=server.url, verify=context, trust_env=False, timeout=10) as http:
        yield http


def pki(api: Api, name: str) -> Path:
    return api.cluster.state / "pki" / f"{name}.crt"


def test_only_the_front_proxy_is_believed(shared: Shared, tmp_path: Path) -> None:
    release, running = shared
    front = pki(release, "front-proxy-ca")
    with client(running, front, "front-proxy") as proxy:
        answer = proxy.get(GROUP_PATH, headers=ADMIN)
        assert answer.status_code == 200
        # The group of all who are authenticated is added; it may read discovery by default.
        assert proxy.get(GROUP_PATH, headers=NOBODY).status_code == 200
        # But not what the proxy itself has not authenticated.
        anonymous = {
            "X-Remote-User": "system:anonymous",
            "X-Remote-Group": "system:unauthenticated",
        }
        assert proxy.get(GROUP_PATH, headers=anonymous).status_code == 403
        assert proxy.get(GROUP_PATH).status_code == 401, "the proxy names nobody"
    with client(running, front, "not-the-proxy") as other:
        assert other.get(GROUP_PATH, headers=ADMIN).status_code == 401, "name not allowed"
    with client(running) as bare:
        answer = bare.get(GROUP_PATH, headers=ADMIN)
        assert answer.status_code == 401, "headers alone are worth nothing"
        assert answer.json()["reason"] == "Unauthorized"
    # The authority of the cluster's users is not the one of its front proxy.
    stranger = Authority.create(tmp_path, "stranger-ca").pair.certificate
    for authority in (pki(release, "ca"), stranger):
        with client(running, authority, "front-proxy") as forger, pytest.raises(httpx.HTTPError):
            forger.get(GROUP_PATH, headers=ADMIN)


def test_tokens_are_reviewed(shared: Shared) -> None:
    release, running = shared
    release.kubectl("create", "serviceaccount", "caller")
    token = release.kubectl("create", "token", "caller").stdout.strip()
    path = f"{GROUP_PATH}/namespaces/{release.namespace}/pods/*/requests_running"
    with client(running) as caller:
        headers = {"Authorization": f"Bearer {token}"}
        assert caller.get(GROUP_PATH, headers=headers).status_code == 200
        refused = caller.get(path, headers=headers)
        assert refused.status_code == 403
        assert f"system:serviceaccount:{release.namespace}:caller" in refused.json()["message"]
        for wrong in ("Bearer nonsense", f"Basic {token}", f"Bearer {token[:-3]}xyz", "Bearer"):
            answer = caller.get(GROUP_PATH, headers={"Authorization": wrong})
            assert answer.status_code == 401, wrong
        # A user's name beside a token that counts for another one changes nothing.
        assert caller.get(path, headers=headers | ADMIN).status_code == 403
    assert token not in running.log


def test_every_request_is_authorized_by_its_names(shared: Shared) -> None:
    release, running = shared
    namespace = release.namespace
    front = pki(release, "front-proxy-ca")
    release.kubectl(
        *("create", "role", "one", "--verb=get"),
        "--resource=llmdeployments.serving.pagoda.dev/backlog_seconds.custom.metrics.k8s.io",
        "--resource-name=mine",
    )
    rule = {
        "apiGroups": ["custom.metrics.k8s.io"],
        "resources": ["llmdeployments.serving.pagoda.dev/backlog_seconds"],
        "resourceNames": ["mine"],
        "verbs": ["get"],
    }
    release.patch("role", "one", {"rules": [rule]})
    release.kubectl("create", "rolebinding", "one", "--role=one", "--user=reader")
    reader = {"X-Remote-User": "reader"}
    root = f"{GROUP_PATH}/namespaces"
    kind = "llmdeployments.serving.pagoda.dev"
    with client(running, front, "front-proxy") as proxy:

        def code(path: str) -> int:
            return proxy.get(path, headers=reader).status_code

        eventually(lambda: code(f"{root}/{namespace}/{kind}/mine/backlog_seconds") == 404)
        assert code(f"{root}/{namespace}/{kind}/other/backlog_seconds") == 403
        assert code(f"{root}/{namespace}/{kind}/mine/kv_cache_usage") == 403
        assert code(f"{root}/default/{kind}/mine/backlog_seconds") == 403
        assert code(f"{root}/{namespace}/pods/mine/backlog_seconds") == 403
        # Another spelling of the same path is the same path.
        assert code(f"{root}/default/{kind}/%6dine/backlog_seconds") == 403
        assert code(SIGNALS) == 403
        assert code("/no/such/path") == 403
        assert proxy.post(GROUP_PATH, headers=reader).status_code == 403
        assert proxy.get("/no/such/path", headers=ADMIN).status_code == 404
        assert proxy.post(GROUP_PATH, headers=ADMIN).status_code == 405
        assert proxy.get("/" + "x" * 2000, headers=ADMIN).status_code == 414


def test_probes_are_open_and_nothing_else_is(shared: Shared) -> None:
    _, running = shared
    for path in ("/healthz", "/livez", "/readyz"):
        assert running.probe(path) == "200 ok"
    for path in ("/", "/apis", "/metrics", SIGNALS, "/openapi/v2", "/healthz/x"):
        assert running.probe(path).startswith("401"), path


def test_operator_may_read_the_signals(shared: Shared) -> None:
    release, running = shared
    release.kubectl("create", "serviceaccount", "pagoda-operator")
    token = release.kubectl("create", "token", "pagoda-operator").stdout.strip()
    with client(running) as operator:
        answer = operator.get(SIGNALS, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200
    assert _own(answer.json(), release) == []
    # Through the API server, as the operator asks: to it this is a resource.
    groups = ["system:serviceaccounts", "system:authenticated"]
    user = f"system:serviceaccount:{release.namespace}:pagoda-operator"
    kubeconfig = release.cluster.kubeconfig_for(user, groups)
    assert _own(raw(release, SIGNALS, kubeconfig=kubeconfig), release) == []


def _own(signals: dict[str, Any], release: Api) -> list[Any]:
    """Those of the release's namespace: of others, some may just be going."""
    return [item for item in signals["items"] if item["namespace"] == release.namespace]


def test_through_the_aggregator(shared: Shared) -> None:
    release, _ = shared
    found = raw(release, GROUP_PATH)
    names = {resource["name"] for resource in found["resources"]}
    assert "llmdeployments.serving.pagoda.dev/demand_tokens_per_second" in names
    assert "pods/kv_cache_usage" in names
    assert "pods/demand_tokens_per_second" not in names

    path = f"{GROUP_PATH}/namespaces/{release.namespace}/pods/*/requests_running"
    assert raw(release, path)["items"] == []
    kubeconfig = release.cluster.kubeconfig_for("nobody", ["none"])
    with pytest.raises(ClusterError, match=r'Forbidden.*User "nobody" cannot get'):
        raw(release, path, kubeconfig=kubeconfig)
    # What the HPA controller may do it may do by a role that every cluster has.
    hpa = release.cluster.kubeconfig_for(
        "system:serviceaccount:kube-system:horizontal-pod-autoscaler", ["system:serviceaccounts"]
    )
    assert raw(release, path, kubeconfig=hpa)["kind"] == "MetricValueList"


def test_another_front_proxy_counts_as_soon_as_it_is_listed(shared: Shared, tmp_path: Path) -> None:
    """The API server merges what it finds there with its own settings."""
    release, running = shared
    new = Authority.create(tmp_path, "new-proxy-ca").pair.certificate
    name = "extension-apiserver-authentication"
    system = Api(release.cluster, "kube-system")
    before = system.get("configmap", name)
    assert before is not None
    old = before["data"]["requestheader-client-ca-file"]

    def listed(authorities: str, names: list[str]) -> None:
        data = {
            "requestheader-client-ca-file": authorities,
            "requestheader-allowed-names": json.dumps(names),
        }
        system.patch("configmap", name, {"data": data})

    def asks(http: httpx.Client) -> int:
        try:
            return http.get(GROUP_PATH, headers=ADMIN).status_code
        except httpx.HTTPError:
            return 0

    with (
        client(running, new, "new-proxy") as proxy,
        client(running, pki(release, "front-proxy-ca"), "front-proxy") as known,
    ):
        assert asks(proxy) == 0
        assert asks(known) == 200
        listed(old + new.read_text(), ["front-proxy", "new-proxy"])
        eventually(lambda: asks(proxy) == 200)
        # An idle connection is closed meanwhile: a client may have to ask on a new one.
        eventually(lambda: asks(known) == 200)
        # On a connection that stands, verified by an authority that is no longer listed.
        listed(old, ["front-proxy"])
        eventually(lambda: asks(proxy) in (0, 401))
        eventually(lambda: asks(known) == 200)
        assert asks(proxy) in (0, 401), "for good"
