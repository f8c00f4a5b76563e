"""The whole path on a real node: one YAML becomes pods that answer, and the status is true."""

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dev.cluster import Cluster
from dev.toy_model import ANSWER
from tests.e2e.install import (
    OPERATOR,
    SYSTEM_NAMESPACE,
    offer_toy_model,
    wait_for_operator,
)
from tests.e2e.load import Load
from tests.e2e.serving import START_TIMEOUT, service_host, service_url, toy_manifest
from tests.kube import Api, Audit, eventually, remove_namespaces


@pytest.fixture(scope="module")
def api(pagoda: Cluster) -> Iterator[Api]:
    """A namespace that enforces restricted pod security, with the toy model in a claim."""
    name = "serving"
    pagoda.kubectl("create", "namespace", name)
    pagoda.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    offer_toy_model(pagoda, name)
    yield Api(pagoda, name)
    remove_namespaces(pagoda, name)


@pytest.fixture(scope="module")
def toy(api: Api) -> Api:
    """A toy that serves, slowed down so that streams can be watched."""
    api.apply(toy_manifest(api))
    api.kubectl("wait", "--for=condition=Ready", "llmd/toy", f"--timeout={START_TIMEOUT:.0f}s")
    return api


def pod_url(api: Api, name: str = "toy") -> str:
    (pod,) = api.list("pods", f"serving.pagoda.dev/llmdeployment={name}")
    return f"http://{pod['status']['podIP']}:8000"


def client(**kwargs: Any) -> httpx.Client:
    return httpx.Client(trust_env=False, timeout=30, **kwargs)


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "toy", "messages": [{"role": "user", "content": "Who are you?"}]} | fields


def kv_blocks(http: httpx.Client, base: str) -> tuple[float, float]:
    """Free blocks and all blocks."""
    page = http.get(f"{base}/metrics").text
    return metric(page, "kv_blocks_free{"), metric(page, "kv_blocks_total{")


def aborted(http: httpx.Client, base: str) -> float:
    """Answers that were not read to their end."""
    page = http.get(f"{base}/metrics").text
    return metric(page, 'request_success_total{finished_reason="abort"')


def metric(page: str, begin: str) -> float:
    """The value of the one sample that begins so."""
    (line,) = (line for line in page.splitlines() if line.startswith(f"pagoda_{begin}"))
    return float(line.rsplit(" ", 1)[1])


def test_table_reads_one_of_one(toy: Api):
    header, row = (line.split() for line in toy.kubectl("get", "llmd", "toy").stdout.splitlines())
    assert header == ["NAME", "MODEL", "ENGINE", "READY", "STATUS", "TOK/S", "AGE"]
    assert row[:5] == ["toy", "toy", "pagoda", "1/1", "Ready"]


def test_killed_operators_come_back_and_write_nothing(toy: Api):
    toy.wait_reason("toy", "Ready")
    # Before anybody asks it anything: later, its rate would still change.
    eventually(lambda: toy.get("llmd", "toy")["status"]["tokensPerSecond"] == 0, timeout=90)
    record = Audit(toy.cluster)
    system = Api(toy.cluster, SYSTEM_NAMESPACE)
    before = {pod["metadata"]["uid"] for pod in system.list("pods")}
    system.kubectl("delete", "pods", "--all", "--grace-period=0", "--force")
    wait_for_operator(toy.cluster)
    eventually(lambda: before.isdisjoint(p["metadata"]["uid"] for p in system.list("pods")))
    # An edit that only a working leader answers shows that it has been over everything.
    toy.patch("service", "toy", {"spec": {"selector": {"serving.pagoda.dev/llmdeployment": "x"}}})
    eventually(
        lambda: (
            toy.get("service", "toy")["spec"]["selector"]
            == {"serving.pagoda.dev/llmdeployment": "toy"}
        ),
        timeout=60,
    )
    assert record.writes() == ["patch services toy"]
    assert any(OPERATOR in found["metadata"]["name"] for found in system.list("deployments"))


def test_tokens_arrive_one_by_one(toy: Api):
    arrivals, text = [], ""
    with client() as http:
        body = chat(stream=True)
        with http.stream("POST", f"{service_url(toy)}/v1/chat/completions", json=body) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    delta = json.loads(line.removeprefix("data: "))["choices"][0]["delta"]
                    text += delta.get("content") or ""
                    arrivals.append(time.monotonic())
    assert text == ANSWER
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    assert len(gaps) > 20
    # At 20 ms a step an answer held back anywhere would arrive in one piece.
    assert sorted(gaps)[len(gaps) // 2] > 0.01


def test_client_that_disconnects_frees_its_blocks(toy: Api):
    base = pod_url(toy)
    with client() as http:
        eventually(lambda: kv_blocks(http, base)[0] == kv_blocks(http, base)[1])
        before = aborted(http, base)
        body = {
            "model": "toy",
            "prompt": "x",
            "max_tokens": 400,
            "ignore_eos": True,
            "stream": True,
        }
        with http.stream("POST", f"{service_url(toy)}/v1/completions", json=body) as answer:
            next(answer.iter_lines())
            free, total = kv_blocks(http, base)
            assert free < total
        eventually(lambda: kv_blocks(http, base)[0] == total, what="all blocks are free")
        assert aborted(http, base) == before + 1, "before the 400 tokens had ended"


def test_scaling_up_and_down(toy: Api):
    toy.kubectl("scale", "llmd/toy", "--replicas=2")
    eventually(lambda: toy.get("llmd", "toy")["status"]["ready"] == "2/2", timeout=START_TIMEOUT)
    assert toy.condition("toy")["status"] == "True"
    toy.kubectl("scale", "llmd/toy", "--replicas=1")
    eventually(lambda: toy.get("llmd", "toy")["status"]["ready"] == "1/1")


def test_change_under_load_loses_no_request(toy: Api):
    """Of one replica with room for a second; it takes requests until every kube-proxy knows that."""
    revision = toy.get("llmd", "toy")["status"]["revision"]

    def changed() -> bool:
        status = toy.get("llmd", "toy")["status"]
        pods = toy.list("pods", "serving.pagoda.dev/llmdeployment=toy")
        return status["revision"] != revision and status["reason"] == "Ready" and len(pods) == 1

    with Load(service_host(toy), step_ms=20, stream_seconds=5, streams=1) as load:
        eventually(lambda: load.open_streams == 1)
        toy.apply(toy_manifest(toy, engine={"args": ["--min-step-ms=10"]}))
        eventually(changed, timeout=START_TIMEOUT + 90)
    assert load.failures == []
    assert load.sent == load.answered > 20


def test_deletion_leaves_nothing(toy: Api):
    toy.delete("llmd", "toy")
    kinds = "deployments,replicasets,pods,services,serviceaccounts,pdb,controllerrevisions"
    eventually(lambda: not toy.list(kinds, "serving.pagoda.dev/llmdeployment=toy"), timeout=60)
