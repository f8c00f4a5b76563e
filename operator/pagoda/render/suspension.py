"""Suspension: no replica runs, and how many come back is written on the Deployment.

The count at the moment of the suspension stands in an annotation of the Deployment itself, so a
resume needs neither the status nor a memory of the operator.
"""

from pagoda.api import GROUP
from pagoda.render.objects import Object

SUSPENDED_ANNOTATION = f"{GROUP}/suspended-replicas"


def suspended_count(deployment: Object | None) -> int | None:
    """Read how many replicas a suspended Deployment had; None if it is not suspended."""
    if deployment is None:
        return None
    written = deployment["metadata"].get("annotations", {}).get(SUSPENDED_ANNOTATION, "")
    return int(written) if written.isdigit() else None


def suspension(deployment: Object) -> dict[str, str]:
    """Build the annotation that suspends a Deployment, keeping the count of the first time."""
    count = suspended_count(deployment)
    if count is None:
        count = int(deployment["spec"].get("replicas", 1))
    return {SUSPENDED_ANNOTATION: str(count)}
