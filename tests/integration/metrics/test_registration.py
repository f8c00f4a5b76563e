"""The APIService: ours where nobody else's is, and gone with the chart."""

import json
import time
from typing import Any

import pytest

from tests.fake_engine import FakeEngine
from tests.integration.metrics.conftest import (
    API_SERVICE,
    GROUP_PATH,
    NAME,
    StartServer,
    api_service,
    raw,
    serve,
    uninstall,
    wait_available,
)
from tests.integration.metrics.test_security import ADMIN, SIGNALS, client, pki
from tests.integration.metrics.test_values import KIND, of_deployment
from tests.kube import Api, eventually
from tests.metrics_server_process import MetricsServerProcess

OTHER = "MetricsAPIOwnedByOther"


def foreign(version: str) -> dict[str, Any]:
    """What the chart of another metrics adapter registers, upstream's insecure way."""
    group = "custom.metrics.k8s.io"
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{version}.{group}"},
        "spec": {
            "group": group,
            "version": version,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"namespace": "monitoring", "name": "prometheus-adapter"},
        },
    }


def metrics_api(api: Api, server: MetricsServerProcess) -> dict[str, Any]:
    """What the bulk answer says of the registration."""
    api.kubectl("create", "serviceaccount", "pagoda-operator", check=False)
    token = api.kubectl("create", "token", "pagoda-operator").stdout.strip()
    with client(server) as http:
        answer = http.get(SIGNALS, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()["metricsAPI"]
    return found


def test_is_whole_and_goes_with_the_chart(release: Api, server: StartServer) -> None:
    running = server()
    wait_available(release)
    found = api_service(release)
    assert found is not None
    spec = found["spec"]
    assert (spec["groupPriorityMinimum"], spec["versionPriority"]) == (100, 200)
    assert "insecureSkipTLSVerify" not in spec
    assert spec["caBundle"]
    (owner,) = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("ClusterRole", NAME)
    assert metrics_api(release, running) == {"registered": True, "reason": "", "message": ""}

    # Somebody's hand is corrected.
    patch = {"spec": {"versionPriority": 1}}
    release.kubectl("patch", "apiservice", API_SERVICE, "--type=merge", f"-p={json.dumps(patch)}")
    eventually(lambda: (api_service(release) or {})["spec"]["versionPriority"] == 200)

    running.stop()
    uninstall(release)


@pytest.mark.parametrize("version", ["v1beta1", "v1beta2"])
def test_another_servers_group_is_left_alone(
    release: Api, server: StartServer, version: str
) -> None:
    other = foreign(version)
    release.apply(other)
    name = other["metadata"]["name"]
    try:
        running = server().wait_ready()
        eventually(lambda: metrics_api(release, running)["reason"] == OTHER)
        told = metrics_api(release, running)
        assert told["registered"] is False
        assert name in told["message"]
        assert running.metric("pagoda_metrics_api_registered") == 0
        services = release.list("apiservice")
        ours = [s for s in services if s["spec"].get("service", {}).get("name") == NAME]
        assert ours == []
        found = release.get("apiservice", name)
        assert found is not None
        assert found["spec"]["service"]["name"] == "prometheus-adapter"
    finally:
        release.kubectl("delete", "apiservice", name)
    # When the other is gone the group is ours without a restart.
    wait_available(release)
    eventually(lambda: metrics_api(release, running)["registered"])


def test_gives_way_to_another_that_comes_later(release: Api, server: StartServer) -> None:
    running = server()
    wait_available(release)
    release.apply(foreign("v1beta1"))
    try:
        eventually(lambda: api_service(release) is None)
        assert metrics_api(release, running)["reason"] == OTHER
        eventually(lambda: "withdrawn" in running.log)  # said when the answer is there
    finally:
        release.kubectl("delete", "apiservice", "v1beta1.custom.metrics.k8s.io")
    wait_available(release)


def test_what_another_made_of_ours_does_not_go_with_our_chart(
    release: Api, server: StartServer
) -> None:
    running = server()
    wait_available(release)
    spec = foreign("v1beta2")["spec"] | {"caBundle": None}
    patch = json.dumps({"spec": spec})
    release.kubectl("patch", "apiservice", API_SERVICE, "--type=merge", f"-p={patch}")
    try:
        eventually(
            lambda: "ownerReferences" not in (api_service(release) or {}).get("metadata", {})
        )
        assert metrics_api(release, running)["reason"] == OTHER
        found = api_service(release)
        assert found is not None
        assert found["spec"]["service"]["name"] == "prometheus-adapter"
    finally:
        release.kubectl("delete", "apiservice", API_SERVICE)
    wait_available(release)


def test_nothing_is_registered_that_the_chart_would_leave_behind(
    release: Api, server: StartServer
) -> None:
    running = server(owner="no-such-role").wait_ready()
    # The right to read just this role is missing as well, which says nothing about it.
    eventually(lambda: "cannot be written" in running.log or "must own" in running.log)
    assert api_service(release) is None


def test_registers_only_when_it_can_answer(
    release: Api, server: StartServer, engine: FakeEngine
) -> None:
    serve(release, "chat", engine)
    started = time.monotonic()
    running = server(window_seconds="8")  # time enough to look
    path = f"/namespaces/{release.namespace}/{KIND}/chat/requests_running"
    with client(running, pki(release, "front-proxy-ca"), "front-proxy") as proxy:
        eventually(lambda: "window" in running.probe("/readyz"))
        assert running.probe("/readyz").startswith("503")
        assert release.get("apiservice", API_SERVICE) is None
        answer = proxy.get(GROUP_PATH + path, headers=ADMIN)
    assert (answer.status_code, "window" in answer.text) == (503, True), "nor by another way"
    wait_available(release)
    assert time.monotonic() - started > 8


def test_who_sees_every_pod_start_does_not_wait_for_a_window(
    release: Api, server: StartServer, engine: FakeEngine
) -> None:
    nobody = ("get", "pods", "--all-namespaces", "--output=name")
    eventually(
        lambda: not release.cluster.kubectl(*nobody).stdout,
        timeout=60,
        what="other tests' are gone",
    )
    server(window_seconds="100")
    wait_available(release)
    serve(release, "chat", engine)
    eventually(lambda: of_deployment(release, "chat", "demand_tokens_per_second"))


def test_discovery_answers_while_every_scrape_fails(
    release: Api, server: StartServer, engine: FakeEngine
) -> None:
    engine.status = 500
    serve(release, "chat", engine)
    running = server()
    wait_available(release)
    assert raw(release, GROUP_PATH)["groupVersion"] == "custom.metrics.k8s.io/v1beta2"
    assert running.ready()
    assert running.metric("pagoda_scrape_failures_total") > 0
    kind = f"{GROUP_PATH}/namespaces/{release.namespace}/llmdeployments.serving.pagoda.dev"
    done = release.kubectl("get", "--raw", f"{kind}/chat/requests_running", check=False)
    assert "requests_running of chat is not known" in done.stderr
