"""The status names the cause that a kubelet reports; the tests play the kubelet.

What a real kubelet says is in tests/e2e/test_causes.py.
"""

import http.server
import json
import os
import threading
from typing import Any, ClassVar

import pytest

from tests.builders import manifest
from tests.kube import Api, Audit, eventually
from tests.operator_process import OperatorProcess
from tests.played import HUB, crashes, event, play, pod_of, waits


@pytest.fixture
def toy(api: Api, operator: OperatorProcess) -> Api:
    """An LLMDeployment with one pod, which is as the test says."""
    api.apply(manifest("toy", api.namespace, model=HUB))
    eventually(lambda: pod_of(api))
    return api


NOT_FOUND = "failed to resolve reference: r.example/engine:1: not found"
DENIED = "pull access denied, insufficient_scope"
NO_KEY = "couldn't find key HF_TOKEN in Secret x/hf"
TOO_LARGE = "one request of 9 tokens needs 9 bytes of KV cache"


def fetch_report(reason: str, message: str) -> str:
    return json.dumps({"reason": reason, "message": message})


@pytest.mark.parametrize(
    ("container", "state", "reason", "says"),
    [
        ("engine", waits("ErrImagePull", NOT_FOUND), "ImageNotFound", "r.example/engine:1"),
        ("engine", waits("ErrImagePull", DENIED), "ImagePullDenied", "imagePullSecrets"),
        (
            "fetch",
            waits("CreateContainerConfigError", 'secret "hf" not found'),
            "SecretNotFound",
            '"hf"',
        ),
        ("fetch", waits("CreateContainerConfigError", NO_KEY), "SecretKeyNotFound", "HF_TOKEN"),
        (
            "fetch",
            crashes(fetch_report("ModelAccessDenied", "401, token=hf_leaked12345")),
            "ModelAccessDenied",
            "token=***",
        ),
        (
            "fetch",
            crashes(fetch_report("ChecksumMismatch", "file x")),
            "ChecksumMismatch",
            "file x",
        ),
        (
            "engine",
            crashes("torch.OutOfMemoryError: CUDA out of memory."),
            "GPUOutOfMemory",
            "CUDA",
        ),
        ("engine", crashes("", code=137, reason="OOMKilled"), "OutOfMemory", "memory limit"),
        ("engine", crashes(TOO_LARGE), "ModelTooLarge", "KV cache"),
    ],
)
def test_reported_cause(toy: Api, container, state, reason, says):
    play(toy, **{"init" if container == "fetch" else "engine": state})
    assert says in toy.wait_reason("toy", reason, timeout=10)["message"]


def test_mount_problem_is_read_from_events(toy: Api):
    creating = waits("ContainerCreating")
    play(toy, init=waits("PodInitializing") | creating, engine=waits("PodInitializing"))
    event(toy, "FailedMount", 'MountVolume.SetUp failed for volume "tls" : secret "tls" not found')
    assert (
        'secret "tls" not found' in toy.wait_reason("toy", "SecretNotFound", timeout=10)["message"]
    )


def test_hung_engine(toy: Api):
    running = {"started": True, "state": {"running": {"startedAt": "2026-01-01T00:01:00Z"}}}
    play(toy, ready=True, engine=running | {"ready": True}, phase="Running")
    toy.wait_reason("toy", "Ready")
    event(toy, "Unhealthy", "Liveness probe failed: engine hung: no token for 61 s")
    event(toy, "Killing", "Container engine failed liveness probe, will be restarted")
    play(toy, engine=running)
    assert "no token for 61 s" in toy.wait_reason("toy", "EngineHung", timeout=10)["message"]
    play(toy, ready=True, engine=running | {"ready": True})
    toy.wait_reason("toy", "Ready")
    warned = [e for e in toy.list("events.events.k8s.io") if e["reason"] == "EngineHung"]
    assert [e["type"] for e in warned] == ["Warning"], "and it stays on record"


def test_crash_loop_writes_one_status(toy: Api):
    play(toy, engine=crashes("2026-01-01T00:00:00Z worker 17 lost its peer 12", run=3))
    assert "its peer" in toy.wait_reason("toy", "EngineCrashed")["message"]
    record = Audit(toy.cluster)
    for run in range(4, 8):
        text = f"2026-01-01T00:00:0{run}Z worker {run} lost its peer {2 * run}"
        play(toy, engine=crashes(text, run=run))
    play(toy, engine=crashes("", code=137, reason="OOMKilled", run=9))
    toy.wait_reason("toy", "OutOfMemory")
    written = record.writes(namespace=toy.namespace)
    assert [w for w in written if "events" not in w] == ["patch llmdeployments/status toy"]


def test_pod_that_its_node_ends_is_a_cause(toy: Api):
    name = pod_of(toy)["metadata"]["name"]
    for _ in range(2):
        name = pod_of(toy)["metadata"]["name"]
        message = 'Usage of EmptyDir volume "scratch" exceeds the limit "1Gi". '
        play(toy, phase="Failed", reason="Evicted", message=message)
        eventually(lambda gone=name: pod_of(toy)["metadata"]["name"] != gone, what="a successor")
        assert "exceeds the limit" in toy.wait_reason("toy", "Evicted", timeout=10)["message"]
    play(toy, ready=True, engine={"ready": True, "state": {"running": {}}}, phase="Running")
    toy.wait_reason("toy", "Ready")


class Progress(http.server.BaseHTTPRequestHandler):
    """Answers as `pagoda fetch` does while it downloads."""

    done = 62
    told: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        assert self.path == "/progress"
        self.told.append(self.done)
        body = json.dumps({"state": "downloading", "bytes": self.done << 20, "total": 100 << 20})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_download_shows_how_far_it_is(toy: Api, operator: OperatorProcess):
    address = f"127.8.{os.getpid() % 250}.{1 + os.getpid() // 250 % 250}"  # nobody else's
    server = http.server.ThreadingHTTPServer((address, 8300), Progress)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        running = {"state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
        play(
            toy,
            init=running,
            engine=waits("PodInitializing"),
            podIP=address,
            podIPs=[{"ip": address}],
        )
        eventually(
            lambda: "62 % of 100.0 MiB" in toy.wait_reason("toy", "Downloading")["message"],
            timeout=10,
        )
        assert toy.condition("toy", "ModelReady")["reason"] == "Downloading"
        operator.settle()  # its event comes after the status
        record = Audit(toy.cluster)
        Progress.done = 64  # too little to be told
        eventually(lambda: 64 in Progress.told, what="it has heard of that")
        Progress.done = 93
        eventually(lambda: "93 %" in toy.condition("toy")["message"], timeout=25)
        written = record.writes(namespace=toy.namespace)
        assert written == ["patch llmdeployments/status toy"]
    finally:
        server.shutdown()
        server.server_close()


class Loading(http.server.BaseHTTPRequestHandler):
    """Answers as `pagoda-runtime` does while it loads."""

    def do_GET(self) -> None:
        assert self.path == "/startupz"
        told = {"phase": "weights", "loaded_bytes": 45 << 20, "total_bytes": 100 << 20}
        self.send_response(503)
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_engine_that_loads_shows_how_far_it_is(toy: Api):
    address = f"127.9.{os.getpid() % 250}.{1 + os.getpid() // 250 % 250}"  # nobody else's
    server = http.server.ThreadingHTTPServer((address, 8000), Loading)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        running = {"state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
        engine = running | {"started": False}
        play(toy, engine=engine, podIP=address, podIPs=[{"ip": address}])
        eventually(
            lambda: "45 % of 100.0 MiB" in toy.wait_reason("toy", "Loading")["message"], timeout=10
        )
        assert toy.condition("toy", "ModelReady")["reason"] == "Loading"
        play(toy, ready=True, engine=running | {"ready": True, "started": True}, phase="Running")
        toy.wait_reason("toy", "Ready")
        told = {e["reason"]: e["type"] for e in toy.list("events.events.k8s.io")}
        assert told["Loading"] == "Normal", told
    finally:
        server.shutdown()
        server.server_close()


def test_operator_of_one_namespace_names_only_the_holders_there(api: Api, operator_process):
    """It may not list nodes, so how many GPUs there are it cannot say."""
    limits = {"nvidia.com/gpu": "2"}
    holder = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "notebook"},
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "x", "image": "x", "resources": {"limits": limits}}],
        },
    }
    api.kubectl("create", "-f", "-", input=json.dumps(holder))
    operator_process("one").start()
    api.apply(manifest("toy", api.namespace, model=HUB, resources={"gpu": {"count": 2}}))
    eventually(lambda: pod_of(api))
    message = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    unscheduled = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastTransitionTime": pod_of(api)["metadata"]["creationTimestamp"],
    }
    name = pod_of(api)["metadata"]["name"]
    api.patch("pod", name, {"status": {"conditions": [unscheduled]}}, subresource="status")
    said = api.wait_reason("toy", "InsufficientGPU", timeout=10)["message"]
    assert "2 nvidia.com/gpu needed, held by pod notebook (2) (0/1 nodes" in said


@pytest.mark.parametrize(
    ("verb", "resource", "allowed"),
    [
        ("list", "nodes", False),
        ("list", "events.events.k8s.io", True),
        ("get", "pods/log", True),
        ("get", "persistentvolumeclaims", True),
        ("list", "persistentvolumeclaims", False),
        ("get", "secrets", False),
        ("list", "secrets", False),
    ],
)
def test_permissions_in_one_namespace(api: Api, operator_process, verb, resource, allowed):
    operator_process("rights")
    user = f"--as=system:serviceaccount:{api.namespace}:pagoda-operator"
    answer = api.kubectl("auth", "can-i", verb, resource, user, check=False).stdout.strip()
    assert (answer == "yes") == allowed
