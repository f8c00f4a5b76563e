"""Autoscaling from one install: real pods, the real HPA controller, open-loop load."""

import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import httpx
import pytest

from dev.cluster import Cluster
from tests.builders import manifest
from tests.e2e.install import SYSTEM_NAMESPACE, offer_toy_model
from tests.e2e.serving import SMALL, START_TIMEOUT, service_url
from tests.kube import Api, eventually, remove_namespaces

# A step takes 50 ms whatever is in it and has at most two requests: 40 tokens/s, 28 at 70 %.
ARGS = ["--min-step-ms=50", "--max-num-seqs=2"]
TARGET = 28
ANSWER_TOKENS = 8
AT_ONCE = {
    "stabilizationWindowSeconds": 0,
    "policies": [{"type": "Pods", "value": 3, "periodSeconds": 1}],
}
# Whatever waits, seconds pass between a load and its end; how fast is for the benchmark.
TIMEOUT = 150.0


class OpenLoop:
    """So many requests per second, however long their answers take."""

    def __init__(self, url: str, rate: float):
        self._url, self._period = f"{url}/v1/completions", 1 / rate
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._tick)]
        self.answered = 0

    def __enter__(self) -> "OpenLoop":
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        while self._threads:
            self._threads.pop(0).join()

    def _tick(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due += self._period
            self._threads.append(threading.Thread(target=self._ask))
            self._threads[-1].start()

    def _ask(self) -> None:
        body = {"prompt": "x", "max_tokens": ANSWER_TOKENS, "ignore_eos": True}
        try:
            # A connection of its own: one that is kept would stay with the replica it is on.
            done = httpx.post(self._url, json=body, timeout=60, trust_env=False)
            self.answered += done.status_code == 200
        except httpx.TransportError:
            pass  # beyond capacity some are refused; that is what scaling is for


@pytest.fixture(scope="module")
def api(pagoda: Cluster) -> Iterator[Api]:
    name = "autoscaling"
    pagoda.kubectl("create", "namespace", name)
    offer_toy_model(pagoda, name)
    # Who sees the first pod start has missed nothing and need not watch for a window first.
    rolled_out = ("rollout", "status", "deployment/pagoda-metrics-server", "--timeout=120s")
    pagoda.kubectl("-n", SYSTEM_NAMESPACE, *rolled_out)
    yield Api(pagoda, name)
    remove_namespaces(pagoda, name)


def status(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = api.get("llmd", "toy")["status"]
    return found


def count(api: Api) -> int:
    return int(api.get("deployment", "toy")["spec"]["replicas"])


@pytest.mark.timeout(600)
def test_count_follows_a_load_up_and_down(api: Api):
    api.apply(
        manifest(
            "toy",
            api.namespace,
            engine={"args": ARGS},
            resources=SMALL | {"cpu": "200m", "memory": "512Mi"},
            rollout={"drainSeconds": 1},
            autoscaling={
                "maxReplicas": 3,
                "targetTokensPerSecond": TARGET,
                "behavior": {"scaleDown": AT_ONCE},
            },
        )
    )
    api.kubectl("wait", "--for=condition=Ready", "llmd/toy", f"--timeout={START_TIMEOUT:.0f}s")
    wait = ("wait", "--for=condition=AutoscalingActive", "llmd/toy", "--timeout=120s")
    api.kubectl(*wait)
    assert count(api) == 1

    with OpenLoop(service_url(api), rate=8) as load:  # 64 tokens/s
        eventually(lambda: count(api) >= 2, timeout=TIMEOUT, what="a second replica is ordered")
        eventually(lambda: status(api)["readyReplicas"] >= 2, timeout=TIMEOUT)
        eventually(lambda: status(api).get("tokensPerSecond", 0) > 0, timeout=TIMEOUT)
    assert load.answered > 0
    decision = status(api)["autoscaling"]["decisions"][0]
    assert decision["toReplicas"] > decision["fromReplicas"]
    assert f"{TARGET} per replica" in decision["reason"] or "waiting" in decision["reason"]

    eventually(lambda: count(api) == 1, timeout=TIMEOUT, what="the load is over")
