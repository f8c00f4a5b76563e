"""Nodes that exist only in the API, for what no test machine has: GPUs, and many nodes.

kwok (sigs.k8s.io/kwok) plays their kubelet. The scheduler and the controllers are real and see real
Node objects; of a pod there is only its status, which the stages below move along.
"""

import json
from collections.abc import Mapping
from typing import Any

from dev.cluster.build import binary
from dev.cluster.processes import start
from dev.cluster.state import State

COMPONENT = "kwok"
# Annotations of a pod that replace the delays of `start_kwok`, as Go durations ("1m30s").
READY_AFTER = "kwok.pagoda.dev/ready-after"
DRAIN_FOR = "kwok.pagoda.dev/drain-for"

_FAKE = "kwok.pagoda.dev/fake"
_NODE_ROOM = {"cpu": "64", "memory": "512Gi", "pods": "110"}

_NODE_READY = """
conditions:
- type: Ready
  status: "True"
  reason: Fake
  message: kwok plays this node
  lastHeartbeatTime: {{ Now | Quote }}
  lastTransitionTime: {{ Now | Quote }}
"""
_POD_READY = """
{{ $now := Now }}
phase: Running
startTime: {{ $now | Quote }}
conditions:
{{ range $type := list "Initialized" "ContainersReady" "Ready" }}
- type: {{ $type | Quote }}
  status: "True"
  lastTransitionTime: {{ $now | Quote }}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  started: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
"""


def launch(state: State, kubeconfig: str, *, ready_seconds: float, drain_seconds: float) -> None:
    """Start kwok as one more process of the cluster.

    Args:
        state: the cluster.
        kubeconfig: path of the administrator's kubeconfig.
        ready_seconds: from the assignment of a pod to its readiness.
        drain_seconds: from the deletion of a pod to its end; its grace period is not looked at.
    """
    stages = [
        _stage(
            "Node", "node-ready", [_exists("metadata.labels", _FAKE), _not_ready()], _NODE_READY
        ),
        _stage(
            "Pod",
            "pod-ready",
            [_absent("metadata.deletionTimestamp"), _not_ready()],
            _POD_READY,
            delay=_delay(ready_seconds, READY_AFTER),
        ),
        _stage(
            "Pod",
            "pod-end",
            [{"key": ".metadata.deletionTimestamp", "operator": "Exists"}],
            None,
            delay=_delay(drain_seconds, DRAIN_FOR),
        ),
    ]
    config = state.folder / "kwok.yaml"
    config.write_text("\n---\n".join(json.dumps(stage) for stage in stages))
    arguments = [
        f"--kubeconfig={kubeconfig}",
        f"--config={config}",
        f"--manage-nodes-with-label-selector={_FAKE}",
        # Heartbeats by Lease, or the nodes would count as lost after 40 s.
        "--node-lease-duration-seconds=40",
    ]
    start(state.folder, COMPONENT, [binary("kwok"), *arguments])


def fake_node(name: str, *, room: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, Any]:
    """Build a Node object that kwok takes care of.

    Args:
        name: of the node.
        room: allocatable resources beside or instead of 64 CPUs and 512 GiB.
        labels: such as nvidia.com/gpu.product.
    """
    allocatable = _NODE_ROOM | dict(room)
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {_FAKE: "true", "kubernetes.io/hostname": name} | dict(labels),
        },
        "status": {"allocatable": allocatable, "capacity": allocatable},
    }


def _stage(
    kind: str,
    name: str,
    selectors: list[dict[str, Any]],
    status: str | None,
    *,
    delay: dict[str, Any] | None = None,
) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "resourceRef": {"apiGroup": "v1", "kind": kind},
        "selector": {"matchExpressions": selectors},
        "next": {"delete": True} if status is None else {"statusTemplate": status},
    }
    if delay:
        spec["delay"] = delay
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": spec,
    }


def _delay(seconds: float, annotation: str) -> dict[str, Any]:
    return {
        "durationMilliseconds": int(seconds * 1000),
        "durationFrom": {"expressionFrom": f'.metadata.annotations["{annotation}"]'},
    }


def _exists(path: str, key: str) -> dict[str, Any]:
    return {"key": f'.{path}["{key}"]', "operator": "Exists"}


def _absent(path: str) -> dict[str, Any]:
    return {"key": f".{path}", "operator": "DoesNotExist"}


def _not_ready() -> dict[str, Any]:
    return {
        "key": '.status.conditions.[] | select( .type == "Ready" ) | .status',
        "operator": "NotIn",
        "values": ["True"],
    }
