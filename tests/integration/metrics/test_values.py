"""What HPAs and people read."""

from contextlib import ExitStack
from typing import Any

import pytest

from dev.cluster import ClusterError
from tests.fake_engine import FakeEngine
from tests.integration.metrics.conftest import (
    GROUP_PATH,
    play_kubelet,
    raw,
    serve,
)
from tests.kube import Api, eventually
from tests.metrics_server_process import MetricsServerProcess

Shared = tuple[Api, MetricsServerProcess]

LOADS = "serving.pagoda.dev%2Fllmdeployment%3Dloads"
KIND = "llmdeployments.serving.pagoda.dev"


def of_deployment(api: Api, name: str, metric: str) -> dict[str, Any]:
    path = f"{GROUP_PATH}/namespaces/{api.namespace}/{KIND}/{name}/{metric}"
    try:
        (item,) = raw(api, path)["items"]
    except ClusterError as error:
        raise AssertionError(str(error)) from error  # not yet, for `eventually`
    return dict(item)


def of_pods(api: Api, metric: str, selector: str = "") -> dict[str, str]:
    path = f"{GROUP_PATH}/namespaces/{api.namespace}/pods/*/{metric}"
    try:
        items = raw(api, path + (f"?labelSelector={selector}" if selector else ""))["items"]
    except ClusterError as error:
        raise AssertionError(str(error)) from error  # not now, for `eventually`
    return {item["describedObject"]["name"]: item["value"] for item in items}


def test_numbers_of_two_pods(shared: Shared) -> None:
    release, running = shared
    with ExitStack() as engines:
        one, two = engines.enter_context(FakeEngine()), engines.enter_context(FakeEngine())
        one.generation_rate, two.generation_rate = 300.0, 500.0
        one.kv_cache_usage, two.kv_cache_usage = 0.25, 0.5
        one.running, two.running = 3, 4
        names = serve(release, "chat", one, two)

        def served() -> bool:
            item = of_deployment(release, "chat", "served_tokens_per_second")
            assert item["windowSeconds"] == 3
            assert item["describedObject"]["kind"] == "LLMDeployment"
            return 700 < _number(item["value"]) < 900

        eventually(served)
        assert of_deployment(release, "chat", "requests_running")["value"] == "7"
        assert of_deployment(release, "chat", "kv_cache_usage")["value"] == "750m"

        def demanded() -> bool:
            demand = of_deployment(release, "chat", "demand_tokens_per_second")
            # What was begun in the window counts as well: seven requests.
            return 650 < _number(demand["value"]) < 1300

        eventually(demanded)

        by_pod = of_pods(release, "requests_running")
        assert set(by_pod) == set(names)
        assert sorted(by_pod.values()) == ["3", "4"]
        exact = "serving.pagoda.dev%2Fllmdeployment%3Dchat"
        assert of_pods(release, "requests_running", exact) == by_pod
        assert (
            of_pods(release, "requests_running", "serving.pagoda.dev%2Fllmdeployment%21%3Dchat")
            == {}
        )

        def rated() -> bool:
            rates = [_number(v) for v in of_pods(release, "served_tokens_per_second").values()]
            return 250 < min(rates) < 350 and 450 < max(rates) < 550

        eventually(rated)

        # Counters that begin again at zero are no negative work, nor none at all: 300 are the other's.
        two.restart()
        asked = two.asked
        eventually(lambda: two.asked > asked + 3)
        value = of_deployment(release, "chat", "served_tokens_per_second")["value"]
        assert 400 < _number(value) < 1000

        # What answers no more is not idle; and nobody is sent elsewhere by an engine.
        failures = running.metric("pagoda_scrape_failures_total")
        two.status = 302
        eventually(lambda: running.metric("pagoda_scrape_failures_total") > failures)
        assert of_deployment(release, "chat", "requests_running")["value"] == "7"


def test_a_loading_pod_has_no_numbers_and_a_deleted_one_none_left(
    shared: Shared,
) -> None:
    release, _ = shared
    with ExitStack() as engines:
        one, two = engines.enter_context(FakeEngine()), engines.enter_context(FakeEngine())
        one.running, two.running = 1, 2
        third = engines.enter_context(FakeEngine())
        third.running = 3
        names = serve(release, "loads", one, two)
        eventually(lambda: set(of_pods(release, "requests_running", LOADS)) == set(names))

        # Which one goes is the ReplicaSet's choice; without a kubelet it is gone at once.
        release.patch("deployment", "loads", {"spec": {"replicas": 1}})
        (value,) = eventually(lambda: _one(of_pods(release, "requests_running", LOADS)))
        eventually(lambda: of_deployment(release, "loads", "requests_running")["value"] == value)

        release.patch("deployment", "loads", {"spec": {"replicas": 2}})

        def new() -> str:
            pods = release.list("pods", "serving.pagoda.dev/llmdeployment=loads")
            found = {pod["metadata"]["name"] for pod in pods} - set(names)
            assert len(found) == 1
            return str(found.pop())

        loading = eventually(new)
        play_kubelet(release, loading, third.address, ready=False)
        eventually(lambda: third.asked > 1, what="its page was read")
        assert loading not in of_pods(release, "requests_running", LOADS)
        play_kubelet(release, loading, third.address)
        eventually(lambda: of_pods(release, "requests_running", LOADS).get(loading) == "3")


def test_what_there_is_not(shared: Shared, engine: FakeEngine) -> None:
    release, _ = shared
    serve(release, "quiet", engine)
    root = f"{GROUP_PATH}/namespaces/{release.namespace}"
    for path, problem in (
        (f"{KIND}/none/requests_running", "not found"),
        (f"{KIND}/quiet/no_such_metric", "no metric no_such_metric"),
        ("pods/*/demand_tokens_per_second", "no metric demand_tokens_per_second"),
        ("services/quiet/requests_running", "no metric requests_running of services"),
        ("pods/none/requests_running", "not known"),
        ("pods/*/requests_running?labelSelector=%28", "no label selector"),
        (f"{KIND}/quiet/requests_running?metricLabelSelector=a%3Db", "no series"),
    ):
        with pytest.raises(ClusterError, match=problem):
            raw(release, f"{root}/{path}")


def _one(found: dict[str, str]) -> list[str]:
    """The values, once there is but one."""
    assert len(found) == 1
    return list(found.values())


def _number(quantity: str) -> float:
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)
