"""Condition types and the one table of reasons.

Every Ready reason stands here with what it means for Ready, Reconciling and Stalled, the word shown
in the STATUS column, and the message. Stalled is kept for what needs a person; a cause that can pass
by itself (no room on any node, a registry that is down) leaves Reconciling true.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Status = Literal["True", "False", "Unknown"]


class ConditionType(StrEnum):
    """Condition types, all present from the first pass."""

    READY = "Ready"  # the current generation is rolled out and serves
    AVAILABLE = "Available"  # some pod of any revision serves
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    MODEL_READY = "ModelReady"
    WORKLOAD_READY = "WorkloadReady"


@dataclass(frozen=True)
class Reason:
    """One cause of the Ready condition's status."""

    name: str
    state: str
    ready: Status
    reconciling: Status
    stalled: Status
    message: str
    advice: str
    is_routine: bool = False
    """Part of normal life; the advice is left to the documentation."""

    def __str__(self) -> str:
        return self.name

    def explain(self, **details: object) -> str:
        """Say what happened and, where somebody can do something about it, what to do."""
        text = self.message.format(**details)
        if self.is_routine:
            return text
        stop = "" if text.endswith((".", "!", "?", "…")) else "."  # others' messages have none
        return f"{text}{stop} {self.advice}"


def _progressing(
    name: str, state: str, message: str, advice: str, *, is_routine: bool = False
) -> Reason:
    return Reason(name, state, "False", "True", "False", message, advice, is_routine)


def _stalled(name: str, state: str, message: str, advice: str) -> Reason:
    return Reason(name, state, "False", "False", "True", message, advice)


READY = Reason(
    "Ready",
    "Ready",
    "True",
    "False",
    "False",
    "{ready} of {desired} replicas serve.",
    "None needed.",
    is_routine=True,
)
SCALING = Reason(
    "Scaling",
    "Scaling",
    "True",
    "True",
    "False",
    "{ready} of {desired} replicas serve; the others are starting or stopping.",
    "None needed: the model serves while the count changes.",
    is_routine=True,
)
DEGRADED = Reason(
    "ReplicasUnavailable",
    "Degraded",
    "True",
    "True",
    "False",
    "{ready} of {desired} replicas serve; {detail}",
    "The model still serves; the message names what keeps the other replicas from starting.",
    is_routine=True,
)
SCALED_TO_ZERO = Reason(
    "ScaledToZero",
    "ScaledToZero",
    "False",
    "False",
    "False",
    "The wanted count is 0, so nothing serves.",
    "To serve again, set spec.replicas above 0.",
)
STARTING = _progressing(
    "Starting",
    "Starting",
    "Replicas are starting and loading the model.",
    "Wait; progress stands in the pod's log.",
    is_routine=True,
)
ROLLING_OUT = _progressing(
    "RollingOut",
    "Updating",
    "Replicas are being replaced by the new revision; the old ones serve until then.",
    "Wait; requests in flight are finished first.",
    is_routine=True,
)
UNSCHEDULABLE = _progressing(
    "Unschedulable",
    "Pending",
    "No node takes the replica: {detail}",
    "Free or add capacity, or change spec.resources or spec.scheduling.",
)
VOLUME_UNAVAILABLE = _progressing(
    "VolumeUnavailable",
    "Pending",
    "The model's volume cannot be used: {detail}",
    "Create the PersistentVolumeClaim named in spec.model.uri, or correct the URI.",
)
IMAGE_PULL_FAILED = _progressing(
    "ImagePullFailed",
    "Failing",
    "The engine image {image} cannot be pulled: {detail}",
    "Check spec.engine.image and spec.engine.imagePullSecrets.",
)
CONFIG_ERROR = _progressing(
    "ContainerConfigError",
    "Failing",
    "The engine's container cannot be made: {detail}",
    "Create the Secret or ConfigMap that spec.engine.env refers to, or correct the reference.",
)
OUT_OF_MEMORY = _progressing(
    "OutOfMemory",
    "Failing",
    "The engine was killed at its memory limit ({restarts} restarts).",
    "Raise spec.resources.memory.",
)
ENGINE_CRASHED = _progressing(
    "EngineCrashed",
    "Failing",
    "The engine exited with code {code} ({restarts} restarts): {detail}",
    "Read the pod's log: kubectl logs deployment/NAME --previous.",
)
QUOTA_EXCEEDED = _progressing(
    "QuotaExceeded",
    "Failing",
    "The namespace's quota does not allow the pod: {detail}",
    "Raise the ResourceQuota or lower spec.resources.",
)
POD_REJECTED = _progressing(
    "PodRejected",
    "Failing",
    "The API server does not admit the pod: {detail}",
    "Change what the message names, or the policy that refuses it.",
)
FORBIDDEN = _progressing(
    "Forbidden",
    "Failing",
    "The operator may not make the change: {detail}",
    "Grant what the message names; `helm upgrade` installs the operator's own permissions.",
)
NOT_APPLIED_YET = _progressing(
    "NotAppliedYet",
    "Pending",
    "The change could not be applied yet and is tried again: {detail}",
    "Wait; if it stays, look at what the message names.",
)
RESOURCE_CONFLICT = _stalled(
    "ResourceConflict",
    "Failed",
    "{detail}",
    "Rename the LLMDeployment, or delete or rename the object that is in the way.",
)
INVALID_SPEC = _stalled(
    "InvalidSpec",
    "Failed",
    "The spec cannot be used: {detail}. Nothing was changed by it.",
    "Correct the field that the message names.",
)
PROGRESS_DEADLINE_EXCEEDED = _stalled(
    "ProgressDeadlineExceeded",
    "Failed",
    "No replica became ready within {deadline} s. {detail}",
    "Read the pod's log; raise spec.rollout.progressDeadlineSeconds if the model only needs longer.",
)

REASONS: tuple[Reason, ...] = (
    READY,
    SCALING,
    DEGRADED,
    SCALED_TO_ZERO,
    STARTING,
    ROLLING_OUT,
    UNSCHEDULABLE,
    VOLUME_UNAVAILABLE,
    IMAGE_PULL_FAILED,
    CONFIG_ERROR,
    OUT_OF_MEMORY,
    ENGINE_CRASHED,
    QUOTA_EXCEEDED,
    POD_REJECTED,
    FORBIDDEN,
    NOT_APPLIED_YET,
    RESOURCE_CONFLICT,
    INVALID_SPEC,
    PROGRESS_DEADLINE_EXCEEDED,
)
