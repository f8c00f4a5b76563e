"""Reading what happened: the audit log for writes, /proc for CPU time and memory."""

import datetime
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Write:
    """One finished write request."""

    user: str
    namespace: str
    what: str  # "patch deployments", "patch llmdeployments/status"
    method: str
    uri: str
    code: int
    received: float  # seconds since the epoch
    finished: float
    body: Any

    @property
    def is_dry_run(self) -> bool:
        return "dryRun=All" in self.uri

    @property
    def content_type(self) -> str:
        """The audit log has no headers; all our patches but merge patches are applies."""
        if self.method == "POST":
            return "application/json"
        return "application/apply-patch+yaml"


class AuditTail:
    """Follows an audit log from where it ends now."""

    def __init__(self, log: Path):
        self._log = log
        self._offset = log.stat().st_size
        self.writes: list[Write] = []

    def read(self) -> list[Write]:
        """All writes since the start, leases aside."""
        with self._log.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                if (write := _write(json.loads(line))) is not None:
                    self.writes.append(write)
        return self.writes


def _write(entry: dict[str, Any]) -> Write | None:
    reference = entry.get("objectRef", {})
    if reference.get("resource") == "leases":
        return None
    subresource = f"/{reference['subresource']}" if reference.get("subresource") else ""
    return Write(
        user=entry["user"].get("username", ""),
        namespace=reference.get("namespace", ""),
        what=f"{entry['verb']} {reference.get('resource')}{subresource}",
        method={"create": "POST", "patch": "PATCH"}.get(entry["verb"], entry["verb"].upper()),
        uri=entry["requestURI"],
        code=entry.get("responseStatus", {}).get("code", 0),
        received=_seconds(entry["requestReceivedTimestamp"]),
        finished=_seconds(entry["stageTimestamp"]),
        body=entry.get("requestObject"),
    )


def _seconds(timestamp: str) -> float:
    return datetime.datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory_mib(pid: int, field: str = "VmRSS") -> float:
    """Resident memory; `VmHWM` for its peak."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(field)
