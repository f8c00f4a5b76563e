"""An Ingress with a real controller: streams pass it token by token, and status knows its address."""

import itertools
import json
import time
from collections.abc import Iterator

import httpx
import pytest

from dev.cluster import Cluster, addresses
from tests.builders import manifest
from tests.contour import CLASS, contour, reaches
from tests.e2e.install import install, offer_toy_model
from tests.kube import Api, eventually, remove_namespaces

pytestmark = pytest.mark.timeout(300)

HOST = "toy.example.com"
STEP_SECONDS = 0.1


@pytest.fixture(scope="module")
def api(node_cluster: Cluster) -> Iterator[Api]:
    install(node_cluster)
    name = "ingress"
    node_cluster.kubectl("create", "namespace", name)
    offer_toy_model(node_cluster, name)
    yield Api(node_cluster, name)
    remove_namespaces(node_cluster, name)


def toy(api: Api, **expose) -> dict:
    return manifest(
        "toy",
        api.namespace,
        engine={"args": [f"--min-step-ms={STEP_SECONDS * 1000:.0f}"]},
        resources={"cpu": "500m", "memory": "1Gi"},
        replicas=1,
        expose=expose,
    )


def test_streams_pass_token_by_token(api: Api, node_cluster: Cluster, tmp_path):
    with contour(node_cluster, tmp_path, addresses.HOST) as url:
        api.apply(toy(api, ingress={"className": CLASS, "host": HOST}))
        api.kubectl("wait", "--for=condition=Ready", "llmd/toy", "--timeout=120s")
        api.kubectl("wait", "--for=condition=RoutesReady", "llmd/toy", "--timeout=30s")
        status = api.get("llmd", "toy")["status"]
        assert status["url"] == f"http://{HOST}/v1"
        names = {address["name"]: address["url"] for address in status["addresses"]}
        internal = f"http://toy.{api.namespace}.svc/v1"
        assert names == {"internal": internal, "ingress": status["url"]}
        assert addresses.HOST in api.condition("toy", "RoutesReady")["message"]

        eventually(lambda: reaches(url, HOST), timeout=60)
        # Longer than the 15 s that Envoy allows a whole answer by default.
        arrivals = stream(url, tokens=int(18 / STEP_SECONDS))
        gaps = sorted(later - earlier for earlier, later in itertools.pairwise(arrivals))
        assert arrivals[-1] - arrivals[0] > 16
        assert gaps[len(gaps) // 2] > STEP_SECONDS / 2, "an answer held back arrives in one piece"

        restarts = api.list("pods")[0]["metadata"]["uid"]
        api.apply(toy(api))
        eventually(lambda: api.get("ingress", "toy") is None)
        eventually(lambda: api.get("llmd", "toy")["status"]["url"] == internal)
        assert api.condition("toy", "RoutesReady")["reason"] == "ServiceReady"
        assert api.condition("toy")["status"] == "True"
        assert api.list("pods")[0]["metadata"]["uid"] == restarts, "no pod was touched"
        eventually(lambda: not reaches(url, HOST))


def stream(url: str, *, tokens: int) -> list[float]:
    """Stream a completion through Envoy; when each event arrived."""
    body = {"model": "toy", "prompt": "x", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    arrivals = []
    with (
        httpx.Client(trust_env=False, timeout=30, headers={"Host": HOST}) as http,
        http.stream("POST", f"{url}/v1/completions", json=body) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                assert "error" not in json.loads(line.removeprefix("data: "))
                arrivals.append(time.monotonic())
        assert line == "" or line == "data: [DONE]"
    return arrivals
