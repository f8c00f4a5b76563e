"""Why do pods not serve? Pure: one small policy per cause, the first that fits wins.

Inputs are the projected pods, the live Deployment and what was asked for besides; nothing is
guessed. A pod that is merely young has no cause.
"""

from collections.abc import Callable, Sequence

from pagoda.controller.diagnosis.creation import config_error, stuck_creation
from pagoda.controller.diagnosis.deployment import diagnose_deployment, rejection
from pagoda.controller.diagnosis.endings import (
    crash,
    download_gets_on,
    downloading,
    failed_download,
    hung,
    loading,
    out_of_memory,
)
from pagoda.controller.diagnosis.evidence import NOTHING, Evidence, PodEvent
from pagoda.controller.diagnosis.finding import Finding
from pagoda.controller.diagnosis.images import image_pull
from pagoda.controller.diagnosis.nodes import ended_by_node, node_lost
from pagoda.controller.diagnosis.scheduling import not_scheduled
from pagoda.controller.diagnosis.text import same_but_for_numbers, shorten
from pagoda.controller.diagnosis.views import (
    deployment_condition,
    is_draining,
    is_leaving,
    is_serving,
    pod_condition,
)
from pagoda.render.objects import Object

Policy = Callable[[Object, Evidence], Finding | None]

POLICIES: tuple[Policy, ...] = (
    image_pull,
    config_error,
    failed_download,
    hung,
    out_of_memory,
    crash,
    node_lost,
    not_scheduled,
    stuck_creation,
)


def diagnose_pods(pods: Sequence[Object], evidence: Evidence = NOTHING) -> Finding | None:
    """Find the first cause among pods that do not serve, the gravest policy first.

    Args:
        pods: the pods of one revision, ended and leaving ones included.
        evidence: what was asked about them.
    """
    staying = [pod for pod in pods if not is_serving(pod) and not is_leaving(pod)]
    staying.sort(key=lambda p: str(p["metadata"]["name"]))
    failing = [pod for pod in staying if download_gets_on(pod, evidence) is None]
    for policy in POLICIES:
        for pod in failing:
            if (finding := policy(pod, evidence)) is not None:
                return finding
    if (finding := ended_by_node(pods)) is not None:
        return finding
    for policy in (downloading, loading):
        for pod in staying:
            if (finding := policy(pod, evidence)) is not None:
                return finding
    return None


__all__ = [
    "NOTHING",
    "Evidence",
    "Finding",
    "PodEvent",
    "deployment_condition",
    "diagnose_deployment",
    "diagnose_pods",
    "is_draining",
    "is_leaving",
    "is_serving",
    "pod_condition",
    "rejection",
    "same_but_for_numbers",
    "shorten",
]
