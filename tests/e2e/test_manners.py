"""An engine that loads, has too much to do, drains, and dies, as the status shows it."""

import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.cluster import Cluster
from dev.demo.install import MODEL_FOLDER
from tests.e2e.install import offer_toy_model
from tests.e2e.serving import START_TIMEOUT, service_url, toy_manifest
from tests.kube import Api, Object, eventually, remove_namespaces

pytestmark = pytest.mark.timeout(600)

# Runs in the container as the engine's user: the engine process is the API process's only child.
KILL_ENGINE = """
import os, pathlib, signal
for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
    pid, _, rest = stat.read_text().partition(" (")
    if rest.rsplit(") ", 1)[1].split()[1] == "1" and int(pid) != os.getpid():
        os.kill(int(pid), signal.SIGKILL)
        print("killed", pid)
"""


NAMESPACE = "manners"


class SlowFile:
    """A file of the model's volume that nobody has read to its end until `arrive`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        path.chmod(0o644)

    def arrive(self) -> None:
        """Give the file to who waits for it, and to all who open it later."""
        whole = self._path.with_suffix(".whole")
        whole.write_bytes(self._content)
        whole.chmod(0o644)
        with self._path.open("wb") as pipe:  # returns when there is a reader
            whole.rename(self._path)
            pipe.write(self._content)


@pytest.fixture(scope="module")
def slow_file(pagoda: Cluster) -> SlowFile:
    pagoda.kubectl("create", "namespace", NAMESPACE)
    offer_toy_model(pagoda, NAMESPACE)
    folder = pagoda.state / "volumes" / f"{NAMESPACE}-models" / MODEL_FOLDER
    return SlowFile(folder / "tokenizer_config.json")


@pytest.fixture(scope="module")
def api(pagoda: Cluster, slow_file: SlowFile) -> Iterator[Api]:
    made = Api(pagoda, NAMESPACE)
    made.apply(engine_manifest(made))
    yield made
    remove_namespaces(pagoda, NAMESPACE)


def engine_manifest(api: Api, **fields: Any) -> Object:
    flags = ["--min-step-ms=50", "--max-num-seqs=1", "--max-num-queued-reqs=1"]
    return toy_manifest(
        api,
        engine={"args": [*flags, "--execution=torch"]},
        resources={"cpu": "300m", "memory": "1Gi"},
        rollout={"drainSeconds": 60},
        **fields,
    )


def pod(api: Api) -> Object:
    (found,) = api.list("pods", "serving.pagoda.dev/llmdeployment=toy")
    return found


def ready(api: Api) -> None:
    api.kubectl("wait", "--for=condition=Ready", "llmd/toy", f"--timeout={START_TIMEOUT:.0f}s")

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{service_url(api)}/livez", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    # A connection begun before kube-proxy knows the endpoint stays without one: the kernel remembers.
    eventually(answers, timeout=60)


class Stream:
    """A streamed answer of some seconds, read beside the test."""

    def __init__(self, url: str, seconds: float) -> None:
        body = {"model": "toy", "prompt": "x", "ignore_eos": True, "stream": True}
        self.events: list[str] = []
        self._request = request(url, body | {"max_tokens": int(seconds * 20)})
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with urllib.request.urlopen(self._request, timeout=90) as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    self.events.append(line.decode().removeprefix("data: ").strip())

    def end(self) -> str:
        """The finish reason, or the code of the error it ended by."""
        self._thread.join()
        if self.events[-1] != "[DONE]":
            return str(json.loads(self.events[-1])["error"]["code"])
        return str(json.loads(self.events[-2])["choices"][0]["finish_reason"])


def request(url: str, body: dict[str, Any]) -> urllib.request.Request:
    headers = {"Content-Type": "application/json", "Connection": "close"}
    return urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), headers)


def test_loading(api: Api, slow_file: SlowFile):
    """Its port answers before it has read what it needs, and the status says what it does."""
    message = api.wait_reason("toy", "Loading", timeout=START_TIMEOUT)["message"]
    assert "The engine is loading the model: " in message
    assert api.condition("toy", "ModelReady")["status"] == "False"
    slow_file.arrive()
    ready(api)


def test_too_much_to_do_is_told_and_is_no_fault(api: Api):
    """Clients are told to come back; the replica stays ready, in the Service and alive."""
    url = service_url(api)
    running = Stream(url, 12)
    eventually(lambda: running.events, timeout=30)
    waiting = Stream(url, 1)

    def is_full() -> bool:
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as page:
            lines = page.read().decode().splitlines()
        (line,) = (x for x in lines if x.startswith("pagoda_num_requests_waiting{"))
        return line.endswith(" 1.0")

    eventually(is_full, timeout=30)
    short = {"model": "toy", "prompt": "x", "max_tokens": 1}
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request(url, short), timeout=90)
    error = refused.value
    assert error.code == 429
    assert json.loads(error.read())["error"]["code"] == "queue_full"
    assert error.headers["Retry-After"]
    assert api.condition("toy")["reason"] == "Ready"
    message = api.wait_reason("toy", "RequestsRefused", timeout=60)["message"]
    assert message.startswith("1 of 1 replicas serve, but requests are refused (429)")
    assert api.condition("toy")["status"] == "True"
    shown = api.kubectl("get", "llmd/toy", "--no-headers").stdout.split()
    assert shown[3:5] == ["1/1", "Overloaded"]
    assert (running.end(), waiting.end()) == ("length", "length")
    assert pod(api)["status"]["containerStatuses"][0]["restartCount"] == 0


def test_draining(api: Api):
    running = Stream(service_url(api), 10)
    eventually(lambda: running.events, timeout=30)
    api.apply(engine_manifest(api, suspend=True))
    eventually(
        lambda: "1 replica is finishing its requests" in api.condition("toy")["message"],
        timeout=30,
    )
    assert api.condition("toy")["reason"] == "Suspended"
    assert api.condition("toy", "Available")["status"] == "False"
    assert running.end() == "length"
    eventually(lambda: not api.list("pods"), timeout=60)
    eventually(lambda: "finishing" not in api.condition("toy")["message"], timeout=30)
    api.apply(engine_manifest(api))
    ready(api)


def test_dying(api: Api):
    running = Stream(service_url(api), 60)
    eventually(lambda: running.events, timeout=30)
    command = ("exec", pod(api)["metadata"]["name"], "-c", "engine", "--", "python3", "-c")
    assert "killed" in api.kubectl(*command, KILL_ENGINE).stdout
    assert running.end() == "engine_dead"
    message = api.wait_reason("toy", "EngineCrashed", timeout=60)["message"]
    assert "the engine process ended with SIGKILL" in message
    ready(api)
    assert pod(api)["status"]["containerStatuses"][0]["restartCount"] == 1
