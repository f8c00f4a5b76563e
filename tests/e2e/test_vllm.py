"""The real vLLM, its build for CPUs, in a pod of an LLMDeployment: it answers, and a hang is seen."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from dev.cluster import Cluster
from dev.demo import install as steps
from dev.toy_model import ANSWER
from dev.vllm_cpu import site_packages
from tests.builders import manifest
from tests.e2e import vllm_image
from tests.e2e.install import install, offer_toy_model
from tests.kube import Api, eventually

# One start: three processes that import torch and vLLM one after the other.
START_TIMEOUT = 300.0
pytestmark = pytest.mark.timeout(START_TIMEOUT + 180)

MODULES = "/opt/vllm"
STOP_ENGINE_CORE = """
import os, pathlib, signal
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    if (folder / "cmdline").read_bytes().startswith(b"VLLM::EngineCore"):
        os.kill(int(folder.name), signal.SIGSTOP)
        print("stopped", folder.name)
"""


@pytest.fixture(scope="module")
def served(node_cluster: Cluster) -> Iterator[Api]:
    """The toy model served by one replica of vLLM, under restricted pod security."""
    install(node_cluster)
    assert node_cluster.load_image(vllm_image.archive()) == [vllm_image.NAME]
    api = Api(node_cluster, "vllm")
    steps.make_namespace(node_cluster, api.namespace)
    offer_toy_model(node_cluster, api.namespace)
    steps.offer_folder(node_cluster, site_packages(), api.namespace, "modules", make_claim=True)
    claim = {"claimName": "modules", "readOnly": True}
    mount = {"name": "modules", "mountPath": MODULES, "readOnly": True}
    api.apply(
        manifest(
            "toy",
            api.namespace,
            engine={
                "type": "vllm",
                "image": vllm_image.NAME,
                "args": ["--enforce-eager"],  # the image has no compiler
                "env": [
                    {"name": "PYTHONPATH", "value": MODULES},
                    {"name": "PAGODA_HANG_SECONDS", "value": "5"},
                ],
            },
            resources={"cpu": "1500m", "memory": "6Gi"},
            replicas=1,
            podTemplate={
                "spec": {
                    "containers": [{"name": "engine", "volumeMounts": [mount]}],
                    "volumes": [{"name": "modules", "persistentVolumeClaim": claim}],
                }
            },
        )
    )
    eventually(lambda: api.condition("toy")["status"] == "True", timeout=START_TIMEOUT, every=1)
    yield api
    node_cluster.kubectl("delete", "namespace", api.namespace, "--wait=false")


def stream(api: Api, path: str, **body: object) -> list[dict]:
    """The events of a streamed answer that came before its end, or the end of the engine."""
    url = f"http://{api.get('service', 'toy')['spec']['clusterIP']}{path}"
    events = []
    try:
        with (
            httpx.Client(trust_env=False, timeout=60) as http,
            http.stream("POST", url, json={"model": "toy", "stream": True} | body) as answer,
        ):
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    events.append(json.loads(line.removeprefix("data: ")))
    except httpx.RemoteProtocolError:
        events.append({"broken": True})
    return events


def engine(api: Api) -> dict:
    (pod,) = api.list("pods", "serving.pagoda.dev/llmdeployment=toy")
    (status,) = pod["status"]["containerStatuses"]
    return status | {"pod": pod["metadata"]["name"]}


def test_streams_a_chat_through_the_service(served: Api):
    question = {"role": "user", "content": "Who are you?"}
    events = stream(served, "/v1/chat/completions", messages=[question])
    deltas = [event["choices"][0]["delta"].get("content") or "" for event in events]
    assert "".join(deltas) == ANSWER
    assert len(deltas) > 10, "not held back and sent in one piece"


def test_hung_engine_is_restarted_and_says_why(served: Api):
    before = engine(served)
    assert before["restartCount"] == 0
    with ThreadPoolExecutor(1) as pool:
        endless = {"prompt": "x", "max_tokens": 2000, "ignore_eos": True}
        running = pool.submit(stream, served, "/v1/completions", **endless)
        command = ("exec", before["pod"], "-c", "engine", "--", "python3", "-c", STOP_ENGINE_CORE)
        assert "stopped" in served.kubectl(*command).stdout
        assert not running.done(), "it was in the middle of an answer"
        # Five seconds without movement, then three probes ten seconds apart.
        eventually(lambda: engine(served)["restartCount"] == 1, timeout=90, every=0.5)
        assert running.result()[-1] == {"broken": True}
    ended = engine(served)["lastState"]["terminated"]
    # By its figures, or by the server's count of requests where they stopped before they told of it.
    assert ended["message"].startswith("engine hung: 1 requests are ")
    served.wait_reason("toy", "EngineHung", timeout=30)
