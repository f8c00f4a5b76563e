"""The PodDisruptionBudget: node drains take one replica at a time."""

from pagoda.render.objects import Object, Owner


def disruption_budget(owner: Owner) -> Object:
    """Build the PDB.

    It exists at every count: with one replica, maxUnavailable 1 blocks nothing, and scaling needs
    no further write. Pods that do not serve may always be evicted, or a crash loop blocks a drain.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": owner.metadata(),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": owner.selector()},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
