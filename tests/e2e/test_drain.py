"""No request is lost while replicas come and go: image change, scale-in, node drain.

Streams of 15 seconds here; `make soak` runs the same with streams of a minute.
"""

import json
from collections.abc import Callable, Iterator

import pytest

from dev.cluster import Cluster
from tests.e2e.install import offer_toy_model
from tests.e2e.load import Load
from tests.e2e.serving import START_TIMEOUT, service_host, toy_manifest
from tests.kube import Api, Object, eventually, remove_namespaces

STEP_MS = 50
LENGTHS = [15, pytest.param(60, marks=pytest.mark.soak)]
OTHER_IMAGE = "localhost/pagoda-runtime:again"

pytestmark = [pytest.mark.timeout(600), pytest.mark.parametrize("seconds", LENGTHS, scope="module")]


@pytest.fixture(scope="module")
def api(pagoda: Cluster) -> Iterator[Api]:
    name = "drain"
    pagoda.kubectl("create", "namespace", name)
    offer_toy_model(pagoda, name)
    made = Api(pagoda, name)
    yield made
    remove_namespaces(pagoda, name)
    # Two engines fewer beside the tests that follow; the rest of the namespace is no load.
    eventually(lambda: not made.list("pods"), timeout=120, every=0.5)


@pytest.fixture
def pair(api: Api, seconds: int) -> Api:
    """Two replicas that serve; a third fits beside them."""
    api.apply(pair_manifest(api, seconds))
    eventually(lambda: is_whole(api, 2), timeout=2 * START_TIMEOUT, every=0.5)
    return api


def pair_manifest(api: Api, seconds: int, *, replicas: int = 2, **engine: str) -> Object:
    return toy_manifest(
        api,
        engine={"args": [f"--min-step-ms={STEP_MS}"]} | engine,
        resources={"cpu": "400m", "memory": "1Gi"},
        replicas=replicas,
        rollout={"drainSeconds": seconds + 15},
    )


def pods(api: Api) -> list[Object]:
    return api.list("pods", "serving.pagoda.dev/llmdeployment=toy")


def is_whole(api: Api, count: int) -> bool:
    """So many replicas serve and none is leaving any more."""
    return api.condition("toy")["reason"] == "Ready" and len(pods(api)) == count


def under_load(api: Api, seconds: int, change: Callable[[], None]) -> None:
    """Do something while requests come in, and fail if one of them fails."""
    with Load(service_host(api), step_ms=STEP_MS, stream_seconds=seconds) as load:
        eventually(lambda: load.open_streams == 4, timeout=30, what="all streams have begun")
        change()
    assert load.failures == [], f"of {load.sent} requests"
    assert load.answered == load.sent
    assert load.sent > 5 * seconds
    assert max(load.stream_lengths) > 0.8 * seconds
    print(f"{load.sent} requests, {len(load.stream_lengths)} streams")


def test_image_change_loses_no_request(pair: Api, seconds: int):
    image = pair.get("llmd", "toy")["status"]["image"]
    pair.cluster.tag_image(image, OTHER_IMAGE)

    def change() -> None:
        pair.apply(pair_manifest(pair, seconds, image=OTHER_IMAGE))
        eventually(
            lambda: (
                is_whole(pair, 2)
                and {p["spec"]["containers"][0]["image"] for p in pods(pair)} == {OTHER_IMAGE}
            ),
            timeout=2 * (START_TIMEOUT + seconds + 30),
            every=0.5,
        )

    under_load(pair, seconds, change)


def test_node_drain_loses_no_request(pair: Api, seconds: int):
    """The one node is cordoned and a replica evicted; the budget keeps the other one."""
    # The budget counts the pods a little later than the operator.
    eventually(lambda: pair.get("pdb", "toy")["status"]["disruptionsAllowed"] == 1, timeout=60)
    (node,) = {pod["spec"]["nodeName"] for pod in pods(pair)}
    first, second = (pod["metadata"]["name"] for pod in pods(pair))

    def drain() -> None:
        pair.cluster.kubectl("cordon", node)
        try:
            assert evict(pair, first) == ""
            assert "disruption budget" in evict(pair, second)
            eventually(
                lambda: first not in {pod["metadata"]["name"] for pod in pods(pair)},
                timeout=seconds + 60,
                every=0.5,
            )
        finally:
            pair.cluster.kubectl("uncordon", node)
        eventually(lambda: is_whole(pair, 2), timeout=START_TIMEOUT, every=0.5)

    under_load(pair, seconds, drain)
    assert second in {pod["metadata"]["name"] for pod in pods(pair)}


def test_scale_in_loses_no_request(pair: Api, seconds: int):
    def scale_in() -> None:
        pair.apply(pair_manifest(pair, seconds, replicas=1))
        eventually(lambda: is_whole(pair, 1), timeout=seconds + 60, every=0.5)

    under_load(pair, seconds, scale_in)


def evict(api: Api, pod: str) -> str:
    """Ask for an eviction as `kubectl drain` does; why it was refused, if it was."""
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": api.namespace},
    }
    path = f"/api/v1/namespaces/{api.namespace}/pods/{pod}/eviction"
    done = api.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(eviction), check=False)
    return "" if done.returncode == 0 else str(done.stderr)
