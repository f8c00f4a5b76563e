"""Pagoda installed on the tests' cluster, the way the demo installs it.

from tests.e2e.install import install, offer_toy_model

install(node_cluster, values={"extraArgs": ["--relist-seconds=5"]})
uri = offer_toy_model(node_cluster, namespace)
"""

from collections.abc import Mapping
from typing import Any

from dev.cluster import Cluster
from dev.demo import install as steps
from dev.demo import watch
from tests.kube import eventually

OPERATOR = steps.OPERATOR
SYSTEM_NAMESPACE = steps.SYSTEM_NAMESPACE


def install(
    cluster: Cluster, *, values: Mapping[str, Any] | None = None, timeout: float = 120.0
) -> dict[str, str]:
    """Build and load the images, install or upgrade the chart, wait until the operator is ready.

    Returns image names by target (operator, runtime).
    """
    names = steps.load_images(cluster)
    steps.install_chart(cluster, names, values=values)
    wait_for_operator(cluster, timeout=timeout)
    return names


def wait_for_operator(cluster: Cluster, *, timeout: float = 120.0) -> None:
    """Wait until every replica of the operator is of the current version and ready."""

    def ready() -> bool:
        done, seen = watch.operator(cluster, SYSTEM_NAMESPACE, OPERATOR)
        assert done, seen
        return True

    eventually(ready, timeout=timeout, every=0.5)


def offer_toy_model(cluster: Cluster, namespace: str, claim: str = "models") -> str:
    """Make a bound claim that holds the toy model; returns the uri for spec.model."""
    steps.offer_model(cluster, steps.toy_model(), namespace, claim, make_claim=True)
    return f"pvc://{claim}/{steps.MODEL_FOLDER}"
