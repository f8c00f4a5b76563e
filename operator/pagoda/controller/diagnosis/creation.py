"""Containers that cannot be made: Secrets, ConfigMaps, keys, volumes."""

import re

from pagoda.api import conditions as reasons
from pagoda.api.conditions import Reason
from pagoda.controller.diagnosis.evidence import Evidence
from pagoda.controller.diagnosis.finding import Finding
from pagoda.controller.diagnosis.text import shorten
from pagoda.controller.diagnosis.views import is_being_made, waiting
from pagoda.render.objects import Object

CONFIG_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
CREATION_EVENTS = ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
# The kubelet's texts for environment variables and for volumes.
MISSING_KEY = re.compile(
    r"couldn't find key .* in (?:Secret|ConfigMap)|references non-existent (?:secret|config) key",
    re.IGNORECASE,
)
MISSING_OBJECT = re.compile(r"(?:secret|configmap)s? \"[^\"]+\" not found", re.IGNORECASE)


def config_error(pod: Object, _: Evidence) -> Finding | None:
    """Find a container that the kubelet cannot make."""
    for _container, reason, message in waiting(pod):
        if reason in CONFIG_REASONS:
            detail = shorten(message) or reason
            return Finding(_cause(detail, reasons.CONFIG_ERROR), {"detail": detail})
    return None


def stuck_creation(pod: Object, evidence: Evidence) -> Finding | None:
    """Find what keeps a pod from getting its volumes and its network: only Events tell."""
    if not is_being_made(pod):
        return None
    events = evidence.events.get(pod["metadata"]["uid"], ())
    failures = [e for e in events if e.reason in CREATION_EVENTS]
    if not failures:
        return None
    detail = shorten(max(failures, key=lambda e: e.time).note)
    return Finding(_cause(detail, reasons.CONFIG_ERROR), {"detail": detail})


def _cause(detail: str, otherwise: Reason) -> Reason:
    if MISSING_KEY.search(detail):
        return reasons.SECRET_KEY_NOT_FOUND
    return reasons.SECRET_NOT_FOUND if MISSING_OBJECT.search(detail) else otherwise
