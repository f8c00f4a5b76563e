"""API errors by what to do about them."""

import json


class KubeError(Exception):
    """The API server, or the way to it, refused a request."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None):
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class NotFoundError(KubeError):
    """404: no such object."""


class ConflictError(KubeError):
    """409: someone else was faster, or a precondition did not hold."""


class ExpiredError(KubeError):
    """410: the version to watch from is too old; only a new LIST helps."""


class TransientError(KubeError):
    """Worth trying again soon: no connection, timeout, 429, 5xx."""


class RejectedError(KubeError):
    """Trying again changes nothing: the request itself is refused (validation, admission, RBAC)."""


class PodSecurityError(RejectedError):
    """The namespace's pod security would not admit the pods."""


class SettingsError(Exception):
    """Neither a pod's service account nor a kubeconfig tells where the API server is."""


class FencedError(Exception):
    """This process may not write: its Lease has run out."""


# A server-side apply with a field the schema does not have, or with a value of the wrong type, is
# answered with 500 and these texts (Kubernetes 1.36); it is no outage.
_REFUSED_BY_500 = ("failed to create typed patch object", "failed to convert new object")


def error_from_response(status: int, body: bytes, retry_after: str | None) -> KubeError:
    """Make the fitting error from a response that is not 2xx."""
    try:
        answer = json.loads(body)
        reason, message = str(answer.get("reason", "")), str(answer.get("message", ""))
    except (ValueError, AttributeError):
        reason, message = "", body.decode(errors="replace")[:500]
    wait = float(retry_after) if retry_after and retry_after.isdigit() else None
    if status == 404:
        return NotFoundError(status, reason, message)
    if status == 409:
        return ConflictError(status, reason, message)
    if status == 410:
        return ExpiredError(status, reason, message)
    if status == 500 and any(text in message for text in _REFUSED_BY_500):
        return RejectedError(status, reason, message)
    # 401 passes when the rotated token has been read again.
    if status in (401, 408, 429) or status >= 500:
        return TransientError(status, reason, message, wait)
    return RejectedError(status, reason, message)
