"""The PodDisruptionBudget: node drains take one replica at a time, and the only one last."""

from pagoda.render.objects import Object, Owner


def disruption_budget(owner: Owner, *, keeps_last: bool) -> Object:
    """Build the PDB.

    Pods that do not serve may always be evicted, or a crash loop blocks a drain.

    Args:
        owner: the LLMDeployment.
        keeps_last: forbid to evict the only replica; `pagoda.controller.evacuation` sees to it that
            it gets a successor.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": owner.metadata(),
        "spec": ({"minAvailable": 1} if keeps_last else {"maxUnavailable": 1})
        | {
            "selector": {"matchLabels": owner.selector()},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
