"""What status says of the load, with the operator and the metrics server at work."""

from pathlib import Path
from typing import Any

from tests.builders import manifest
from tests.fake_engine import FakeEngine
from tests.integration.control.conftest import operator_for
from tests.integration.metrics.conftest import StartServer, play_kubelet, wait_available
from tests.kube import Api, eventually


def status(api: Api) -> dict[str, Any]:
    found = api.get("llmd", "chat")
    assert found is not None
    return dict(found["status"])


def test_an_overload_ends_and_what_is_not_heard_any_more_is_not_told(
    release: Api, server: StartServer, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.generation_rate = 300.0
    metrics = server()
    wait_available(release)
    log = tmp_path / "operator.log"
    with operator_for(release.cluster, log, "one", release.namespace, namespace=""):
        release.apply(manifest("chat", release.namespace))
        (pod,) = eventually(lambda: release.list("pods"))
        play_kubelet(release, pod["metadata"]["name"], engine.address)
        release.wait_reason("chat", "Ready")

        def refused() -> bool:
            engine.rejected += 1
            return status(release)["reason"] == "RequestsRefused"

        eventually(refused, timeout=30)
        assert status(release)["state"] == "Overloaded"
        # Of a moment, and told until half a minute later: how exact it is, others show.
        assert eventually(lambda: status(release).get("tokensPerSecond")) > 0
        # Half a minute of looking back, and a while so that it does not come and go.
        release.wait_reason("chat", "Ready", timeout=60)
        assert "tokensPerSecond" in status(release)
        metrics.kill()
        eventually(lambda: "tokensPerSecond" not in status(release), timeout=30)
        assert status(release)["reason"] == "Ready"
