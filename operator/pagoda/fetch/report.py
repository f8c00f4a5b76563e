"""What a download tells the operator: its progress and, when it fails, the reason. Pure.

Both sides use this file, so what one writes the other can read. Nobody keeps a user's pod from
writing something else there: what does not fit is no report.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

TERMINATION_LIMIT = 4096  # bytes; the kubelet cuts off what is longer
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


class FailureReason(StrEnum):
    """Why a download ended without a model."""

    MODEL_ACCESS_DENIED = "ModelAccessDenied"
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_FORMAT_UNSUPPORTED = "ModelFormatUnsupported"
    CHECKSUM_MISMATCH = "ChecksumMismatch"
    DISK_FULL = "DiskFull"
    HUB_UNAVAILABLE = "HubUnavailable"
    FETCH_FAILED = "FetchFailed"  # a fault that has no reason of its own


class State(StrEnum):
    """What a download is doing."""

    DOWNLOADING = "downloading"
    RETRYING = "retrying"  # no file moves: every one waits to be tried again
    VERIFYING = "verifying"  # reads what an earlier run left on the disk
    DONE = "done"


@dataclass(frozen=True)
class Failure:
    """Why there is no model, and what to do about it."""

    reason: FailureReason
    message: str


def failure(message: str) -> Failure | None:
    """Read a container's termination message; None when it is not a download's."""
    try:
        data = json.loads(message)
        return Failure(FailureReason(data["reason"]), str(data["message"]))
    except (ValueError, KeyError, TypeError):
        return None


def termination_message(failed: Failure) -> str:
    """Write a failure so that `failure` reads it and the kubelet does not cut it off."""
    text = failed.message
    while True:
        message = json.dumps({"reason": failed.reason, "message": text}, ensure_ascii=False)
        excess = len(message.encode()) - TERMINATION_LIMIT
        if excess <= 0:
            return message
        # A character is at least one byte and at most six when escaped: never more than needed.
        text = text[: -max(1, excess // 6) - 1] + "…"


def progress_text(data: Mapping[str, Any]) -> str:
    """Say in a few words how far a download is, such as `62 % of 14.2 GiB`.

    Args:
        data: the document that `pagoda fetch` serves at /progress.
    """
    done, total = _count(data.get("bytes")), _count(data.get("total"))
    text = f"{100 * min(done, total) // total} % of {size(total)}" if total else "0 %"
    if data.get("state") == State.RETRYING and (detail := data.get("detail")):
        return f"{text}; {detail}"
    return text


def size(count: int) -> str:
    """Write a number of bytes for people, such as `14.2 GiB`."""
    value, unit = float(count), UNITS[0]
    for unit in UNITS:
        if value < 1024 or unit == UNITS[-1]:
            break
        value /= 1024
    return f"{count} {unit}" if unit == UNITS[0] else f"{value:.1f} {unit}"


def _count(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
