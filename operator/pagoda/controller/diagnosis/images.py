"""Images that cannot be pulled: absent, refused, or out of reach."""

import re

from pagoda.api import conditions as reasons
from pagoda.api.conditions import Reason
from pagoda.controller.diagnosis.evidence import Evidence
from pagoda.controller.diagnosis.finding import Finding
from pagoda.controller.diagnosis.text import shorten
from pagoda.controller.diagnosis.views import waiting
from pagoda.render.objects import Object

PULL_REASONS = frozenset(
    (
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    )
)
# The texts of containerd and CRI-O and of the registries behind them. Docker Hub answers "denied"
# also for a repository that does not exist, and says so itself.
DENIED = re.compile(
    r"pull access denied|insufficient_scope|no basic auth credentials|failed to authorize"
    r"|unauthorized|denied:|401 Unauthorized|403 Forbidden|authentication required",
    re.IGNORECASE,
)
OTHER_PLATFORM = re.compile(r"no match for platform|no image found in .* for architecture")
NOT_FOUND = re.compile(
    r": not found$|manifest unknown|name unknown|repository .* not found|404 Not Found",
    re.IGNORECASE,
)
MISSING_PULL_SECRET = "FailedToRetrieveImagePullSecret"


def image_pull(pod: Object, evidence: Evidence) -> Finding | None:
    """Find an image that cannot be pulled."""
    for container, reason, message in waiting(pod):
        if reason not in PULL_REASONS:
            continue
        detail = shorten(message) or reason
        cause = _cause(reason, detail)
        if cause is reasons.IMAGE_PULL_DENIED:
            events = evidence.events.get(pod["metadata"]["uid"], ())
            hint = next((e.note for e in events if e.reason == MISSING_PULL_SECRET), None)
            detail = f"{shorten(hint)} {detail}" if hint else detail
        return Finding(cause, {"image": container["image"], "detail": detail})
    return None


def _cause(reason: str, detail: str) -> Reason:
    if reason in ("InvalidImageName", "RegistryUnavailable") or OTHER_PLATFORM.search(detail):
        return reasons.IMAGE_PULL_FAILED
    if reason == "ErrImageNeverPull":
        return reasons.IMAGE_NOT_FOUND
    if DENIED.search(detail):
        return reasons.IMAGE_PULL_DENIED
    return reasons.IMAGE_NOT_FOUND if NOT_FOUND.search(detail) else reasons.IMAGE_PULL_FAILED
