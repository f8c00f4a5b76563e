"""Models from a hub, on a real node: downloaded before the engine starts, or refused with the cause."""

from collections.abc import Iterator

import httpx
import pytest

from dev.cluster import Cluster, addresses
from dev.demo import install as steps
from dev.toy_model import ANSWER
from tests.e2e.install import install
from tests.e2e.serving import START_TIMEOUT, service_url, toy_manifest
from tests.hub import Hub
from tests.kube import Api, remove_namespaces

pytestmark = pytest.mark.timeout(300)

TOKEN = "hf_right-and-secret"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """A hub with an open and a gated repository, at an address that pods reach."""
    folder = steps.toy_model() / steps.MODEL_FOLDER
    with Hub(host=addresses.HOST) as server:
        server.add("demo/toy", folder, rate=10_000.0)
        server.add("demo/gated", folder, gated=True, allowed={TOKEN})
        yield server


@pytest.fixture(scope="module")
def api(node_cluster: Cluster, hub: Hub) -> Iterator[Api]:
    install(node_cluster, values={"hub": {"endpoint": hub.url}})
    name = "models"
    node_cluster.kubectl("create", "namespace", name)
    node_cluster.kubectl(
        "label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted"
    )
    yield Api(node_cluster, name)
    remove_namespaces(node_cluster, name)


def from_hub(api: Api, name: str, repo: str, **model):
    made = toy_manifest(api, model={"uri": f"hf://{repo}"} | model)
    made["metadata"]["name"] = name
    return made


def test_downloaded_model_answers(api: Api, hub: Hub):
    api.apply(from_hub(api, "toy", "demo/toy"))
    downloading = api.wait_reason("toy", "Downloading", timeout=60)
    assert downloading["message"].startswith("The model is being downloaded")
    hub.repos["demo/toy"].rate = None
    api.kubectl("wait", "--for=condition=Ready", "llmd/toy", f"--timeout={START_TIMEOUT:.0f}s")
    body = {"model": "toy", "messages": [{"role": "user", "content": "Who are you?"}]}
    url = f"{service_url(api)}/v1/chat/completions"
    answer = httpx.post(url, json=body, timeout=30, trust_env=False).json()
    assert answer["choices"][0]["message"]["content"] == ANSWER
    api.delete("llmd", "toy")


def test_gated_model_needs_the_right_token(api: Api, hub: Hub):
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub"}}
    api.apply(secret | {"stringData": {"HF_TOKEN": "hf_wrong-and-secret"}})
    api.apply(from_hub(api, "none", "demo/gated"))
    api.apply(from_hub(api, "wrong", "demo/gated", secretRef={"name": "hub"}))
    api.apply(from_hub(api, "unknown", "demo/no-such-model"))
    messages = {
        name: api.wait_reason(name, reason, timeout=90)["message"]
        for name, reason in (
            ("none", "ModelAccessDenied"),
            ("wrong", "ModelAccessDenied"),
            ("unknown", "ModelNotFound"),
        )
    }
    assert "spec.model.secretRef" in messages["none"]
    assert "token" in messages["wrong"]
    assert "demo/no-such-model" in messages["unknown"]
    whole = api.kubectl("get", "llmd,pods,events", "-o", "yaml").stdout
    assert "wrong-and-secret" not in whole
    assert api.condition("wrong", "Stalled")["status"] == "True"
    assert api.condition("wrong", "ModelReady")["reason"] == "ModelAccessDenied"
    for name in ("none", "unknown"):
        api.delete("llmd", name)

    api.apply(secret | {"stringData": {"HF_TOKEN": TOKEN}})
    api.kubectl("delete", "pods", "-l", "serving.pagoda.dev/llmdeployment=wrong", "--wait=false")
    api.kubectl("wait", "--for=condition=Ready", "llmd/wrong", f"--timeout={START_TIMEOUT:.0f}s")
