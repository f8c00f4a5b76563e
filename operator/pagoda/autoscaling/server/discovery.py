"""What the API group offers, as kubectl and the HPA controller look it up. Pure."""

from typing import Literal

from pagoda.api import GROUP as OWN_GROUP
from pagoda.api import KIND, PLURAL
from pagoda.render.objects import Object

GROUP = "custom.metrics.k8s.io"
VERSION = "v1beta2"
GROUP_VERSION = f"{GROUP}/{VERSION}"

Metric = Literal[
    "demand_tokens_per_second",
    "served_tokens_per_second",
    "backlog_seconds",
    "kv_cache_usage",
    "requests_waiting",
    "requests_running",
]
OBJECT_METRICS: tuple[Metric, ...] = (
    "demand_tokens_per_second",
    "served_tokens_per_second",
    "backlog_seconds",
    "kv_cache_usage",
    "requests_waiting",
    "requests_running",
)
# Demand and backlog are of a whole deployment: a pod knows nothing of work that others hold.
POD_METRICS: tuple[Metric, ...] = (
    "served_tokens_per_second",
    "kv_cache_usage",
    "requests_waiting",
    "requests_running",
)
PODS = "pods"
DEPLOYMENTS = f"{PLURAL}.{OWN_GROUP}"

METRICS: dict[str, tuple[Metric, ...]] = {DEPLOYMENTS: OBJECT_METRICS, PODS: POD_METRICS}
KINDS: dict[str, str] = {DEPLOYMENTS: KIND, PODS: "Pod"}


def group_list() -> Object:
    """Answer /apis."""
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group()]}


def group() -> Object:
    """Answer /apis/custom.metrics.k8s.io."""
    return {"kind": "APIGroup", "apiVersion": "v1"} | _group()


def _group() -> Object:
    version = {"groupVersion": GROUP_VERSION, "version": VERSION}
    return {"name": GROUP, "versions": [version], "preferredVersion": version}


def resource_list() -> Object:
    """Answer /apis/custom.metrics.k8s.io/v1beta2."""
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": GROUP_VERSION,
        "resources": [
            {
                "name": f"{resource}/{metric}",
                "singularName": "",
                "namespaced": True,
                "kind": "MetricValueList",
                "verbs": ["get"],
            }
            for resource, metrics in METRICS.items()
            for metric in metrics
        ],
    }
