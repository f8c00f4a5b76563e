"""The toy model served on the tests' node: what several modules of tests need."""

from typing import Any

from tests.builders import manifest
from tests.kube import Api

SMALL = {"cpu": "500m", "memory": "1Gi"}
START_TIMEOUT = 120.0  # torch alone takes ten seconds to import on half a core


def toy_manifest(api: Api, **fields: Any) -> dict[str, Any]:
    """A toy, slowed down so that streams can be watched."""
    defaults = {"engine": {"args": ["--min-step-ms=20"]}, "resources": SMALL, "replicas": 1}
    return manifest("toy", api.namespace, **(defaults | fields))


def service_host(api: Api, name: str = "toy") -> str:
    return str(api.get("service", name)["spec"]["clusterIP"])


def service_url(api: Api, name: str = "toy") -> str:
    return f"http://{service_host(api, name)}"
