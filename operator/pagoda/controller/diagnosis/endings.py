"""Containers that ended: a failed download, too little memory, a hung or a crashed engine."""

from pagoda.api import conditions as reasons
from pagoda.api.conditions import REASONS
from pagoda.controller.diagnosis.evidence import Evidence
from pagoda.controller.diagnosis.finding import Finding
from pagoda.controller.diagnosis.logs import DISK_FULL, known_cause, last_words
from pagoda.controller.diagnosis.text import shorten
from pagoda.controller.diagnosis.views import containers, is_starting, last_end
from pagoda.fetch.report import failure
from pagoda.render.fetch import FETCH_CONTAINER
from pagoda.render.objects import Object

BY_NAME = {reason.name: reason for reason in REASONS}
OFTEN = 3  # restarts; the count itself would change the status each time
HUNG = "engine hung: "  # what a liveness probe of ours leaves as the container's last words
KILLED_BY_PROBE = "failed liveness probe"  # the kubelet's Killing event
PROBE_FAILED = "Liveness probe failed"  # its Unhealthy event


def download_gets_on(pod: Object, evidence: Evidence) -> Finding | None:
    """Find a download that has come further since its last failure."""
    progress = evidence.downloads.get(pod["metadata"]["uid"])
    return None if progress is None or progress.startswith("0 %") else downloading(pod, evidence)


def failed_download(pod: Object, evidence: Evidence) -> Finding | None:
    """Find why the download ended."""
    for container in pod["status"].get("initContainerStatuses", ()):
        end = last_end(container)
        if container["name"] != FETCH_CONTAINER or not end or end.get("exitCode") == 0:
            continue
        text = end.get("message", "") or evidence.logs.get(pod["metadata"]["uid"], "")
        if report := failure(text):
            return Finding(BY_NAME[report.reason], {"detail": shorten(report.message)})
        if end.get("reason") != "OOMKilled" and DISK_FULL.search(text):
            return Finding(reasons.DISK_FULL, {"detail": last_words(text)})
    return None


def hung(pod: Object, evidence: Evidence) -> Finding | None:
    """Find an engine that the kubelet stops or has stopped because it made no progress."""
    events = evidence.events.get(pod["metadata"]["uid"], ())
    for container in pod["status"].get("containerStatuses", ()):
        end = last_end(container)
        if end and HUNG in (message := end.get("message", "")):
            return Finding(
                reasons.ENGINE_HUNG, {"detail": shorten(message), "often": often(container)}
            )
        running = container.get("state", {}).get("running")
        since = end.get("startedAt", "") if end else (running or {}).get("startedAt", "")
        until = end.get("finishedAt", "") if end else "~"  # sorts after every time
        during = [e for e in events if since <= e.time <= until]
        if not any(e.reason == "Killing" and KILLED_BY_PROBE in e.note for e in during):
            continue
        told = [e for e in during if e.reason == "Unhealthy" and PROBE_FAILED in e.note]
        detail = shorten(max(told, key=lambda e: e.time).note if told else PROBE_FAILED)
        return Finding(reasons.ENGINE_HUNG, {"detail": detail, "often": often(container)})
    return None


def out_of_memory(pod: Object, _: Evidence) -> Finding | None:
    """Find a container that the kernel killed at its memory limit."""
    for container in containers(pod):
        end = last_end(container)
        if end and end.get("reason") == "OOMKilled":
            what = "download" if container["name"] == FETCH_CONTAINER else "engine"
            detail = f"The {what} was killed at its memory limit{often(container)}"
            return Finding(reasons.OUT_OF_MEMORY, {"detail": detail})
    return None


def crash(pod: Object, evidence: Evidence) -> Finding | None:
    """Find a container that ended by itself, and what its last words mean."""
    starting = pod["status"].get("initContainerStatuses", ())
    for container in containers(pod):
        end = last_end(container)
        # An engine is not meant to end at all.
        if not end or (end.get("exitCode") == 0 and container in starting):
            continue
        told = end.get("message", "")
        logged = evidence.logs.get(pod["metadata"]["uid"], "")
        repeated = often(container)
        for text in (told, logged):
            if known := known_cause(text):
                return Finding(known[0], {"detail": known[1], "often": repeated})
        detail = last_words(logged or told) or "it left no message"
        if container["name"] == FETCH_CONTAINER:
            return Finding(reasons.FETCH_FAILED, {"detail": detail})
        return Finding(
            reasons.ENGINE_CRASHED,
            {"code": end.get("exitCode"), "often": repeated, "detail": detail},
        )
    return None


def downloading(pod: Object, evidence: Evidence) -> Finding | None:
    """Find a download that runs."""
    for container in pod["status"].get("initContainerStatuses", ()):
        if container["name"] == FETCH_CONTAINER and container.get("state", {}).get("running"):
            detail = evidence.downloads.get(pod["metadata"]["uid"], "it has just begun")
            return Finding(reasons.DOWNLOADING, {"detail": shorten(detail)})
    return None


def loading(pod: Object, evidence: Evidence) -> Finding | None:
    """Find an engine that says how far it has loaded the model."""
    if (progress := evidence.loads.get(pod["metadata"]["uid"])) is None:
        return None
    return Finding(reasons.LOADING, {"detail": shorten(progress)}) if is_starting(pod) else None


def often(container: Object) -> str:
    """Say that it is not the first time."""
    return " again and again" if container.get("restartCount", 0) >= OFTEN else ""
