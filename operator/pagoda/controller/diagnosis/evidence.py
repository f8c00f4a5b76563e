"""What a pod does not tell by itself and was asked for (`pagoda.controller.inquiry`). Pure data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pagoda.controller.diagnosis.gpus import GpuSurvey


@dataclass(frozen=True)
class PodEvent:
    """One Event about a pod."""

    reason: str
    note: str
    time: str  # RFC 3339, of the last occurrence, by the clock of the reporting node


@dataclass(frozen=True)
class Evidence:
    """Answers by the uid of the pod. What nobody asked or answered is missing."""

    logs: Mapping[str, str] = field(default_factory=dict)
    """The last lines of the run that ended."""
    events: Mapping[str, tuple[PodEvent, ...]] = field(default_factory=dict)
    downloads: Mapping[str, str] = field(default_factory=dict)
    """How far the download is, in words."""
    loads: Mapping[str, str] = field(default_factory=dict)
    """How far the engine's start is, in words."""
    claims: Mapping[str, str] = field(default_factory=dict)
    """Claim → what keeps it from being used, in words."""
    gpus: GpuSurvey | None = None


NOTHING = Evidence()
