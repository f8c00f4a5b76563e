"""What keeps the Deployment from making pods at all: quota, pod security, admission."""

import re

from pagoda.api import conditions as reasons
from pagoda.controller.diagnosis.finding import Finding
from pagoda.controller.diagnosis.text import shorten
from pagoda.controller.diagnosis.views import deployment_condition
from pagoda.render.objects import Object

# The name is a new one with each try.
POD_NAME = re.compile(r'^pods? "[^"]*" is forbidden: ')


def diagnose_deployment(deployment: Object) -> Finding | None:
    """Find what keeps the Deployment from making pods."""
    failure = deployment_condition(deployment, "ReplicaFailure")
    if failure is None or failure["status"] != "True":
        return None
    return rejection(failure.get("message", ""))


def rejection(message: str) -> Finding:
    """Tell a quota that is exceeded from a pod that is not admitted."""
    detail = POD_NAME.sub("", shorten(message))
    quota = "exceeded quota" in detail or "failed quota" in detail
    return Finding(reasons.QUOTA_EXCEEDED if quota else reasons.POD_REJECTED, {"detail": detail})
