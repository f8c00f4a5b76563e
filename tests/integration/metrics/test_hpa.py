"""The real HPA controller reads our numbers and scales by them."""

from typing import Any

from tests.fake_engine import FakeEngine
from tests.integration.metrics.conftest import StartServer, serve, wait_available
from tests.kube import Api, eventually


def autoscaler(name: str, *metrics: dict[str, Any]) -> dict[str, Any]:
    """Scales the Deployment by metrics; never down, so that a test sees one direction."""
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": 1,
            "maxReplicas": 8,
            "metrics": list(metrics),
            "behavior": {"scaleDown": {"selectPolicy": "Disabled"}},
        },
    }


def of_object(name: str, metric: str, average: str) -> dict[str, Any]:
    described = {
        "apiVersion": "serving.pagoda.dev/v1alpha1",
        "kind": "LLMDeployment",
        "name": name,
    }
    target = {"type": "AverageValue", "averageValue": average}
    return {
        "type": "Object",
        "object": {"describedObject": described, "metric": {"name": metric}, "target": target},
    }


def of_pods(metric: str, average: str) -> dict[str, Any]:
    target = {"type": "AverageValue", "averageValue": average}
    return {"type": "Pods", "pods": {"metric": {"name": metric}, "target": target}}


def test_scales_by_an_object_and_by_pods(
    release: Api, server: StartServer, engine: FakeEngine
) -> None:
    engine.generation_rate = 300.0
    engine.running = 2
    engine.kv_cache_usage = 0.4
    serve(release, "chat", engine)
    server()
    wait_available(release)
    release.apply(
        autoscaler(
            "chat",
            of_object("chat", "demand_tokens_per_second", "1k"),
            of_object("chat", "requests_waiting", "4"),
            of_pods("kv_cache_usage", "800m"),
        )
    )

    def current() -> dict[str, str]:
        hpa = release.get("hpa", "chat")
        assert hpa is not None
        conditions = {c["type"]: c for c in hpa["status"]["conditions"]}
        assert conditions["ScalingActive"]["status"] == "True", conditions["ScalingActive"]
        found = {}
        for metric in hpa["status"]["currentMetrics"]:
            kind = metric["type"].lower()
            found[metric[kind]["metric"]["name"]] = metric[kind]["current"]["averageValue"]
        return found

    values = eventually(lambda: len(current()) == 3 and current(), timeout=40)
    assert values["kv_cache_usage"] == "400m"
    assert values["requests_waiting"] == "0"
    # Measured: a scrape that is late makes one value too high and another too low.
    eventually(lambda: 250 < _number(current()["demand_tokens_per_second"]) < 350, timeout=40)
    shown = release.kubectl("get", "hpa", "chat", "--no-headers").stdout
    assert "0/4 (avg)" in shown
    assert "/1k (avg)" in shown

    # Work that waits is demand: five times what one replica may have in its queue.
    engine.waiting = 20
    eventually(
        lambda: (release.get("deployment", "chat") or {})["spec"]["replicas"] == 5, timeout=40
    )


def _number(quantity: str) -> float:
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)
