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
    """Condition types; those that apply are present from the first pass."""

    READY = "Ready"  # the current generation is rolled out and serves
    AVAILABLE = "Available"  # some pod of any revision serves
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    MODEL_READY = "ModelReady"
    WORKLOAD_READY = "WorkloadReady"
    ROUTES_READY = "RoutesReady"
    AUTOSCALING_ACTIVE = "AutoscalingActive"  # only with spec.autoscaling


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
    concerns_model: bool = False
    """About the weights themselves, so that ModelReady is False by it."""
    is_steady: bool = False
    """Its message quotes others' words, whose numbers differ with each occurrence: a message in
    which nothing but numbers is new does not replace the last one."""

    def __str__(self) -> str:
        return self.name

    def explain(self, **details: object) -> str:
        """Say what happened and, where somebody can do something about it, what to do."""
        text = self.message.format(**details)
        if self.is_routine:
            return text
        stop = "" if text.endswith((".", "!", "?", "…")) else "."  # others' messages have none
        return f"{text}{stop} {self.advice}"


def _progressing(name: str, state: str, message: str, advice: str, **flags: bool) -> Reason:
    return Reason(name, state, "False", "True", "False", message, advice, **flags)


def _stalled(name: str, state: str, message: str, advice: str, **flags: bool) -> Reason:
    return Reason(name, state, "False", "False", "True", message, advice, **flags)


def _overloaded(name: str, message: str) -> Reason:
    advice = (
        "Raise spec.replicas or spec.autoscaling.maxReplicas, or give each replica more to work with "
        "(spec.resources)."
    )
    return Reason(name, "Overloaded", "True", "False", "False", message, advice)


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
    is_steady=True,
)
REQUESTS_REFUSED = _overloaded(
    "RequestsRefused",
    "{ready} of {desired} replicas serve, but requests are refused (429), as queues are full.",
)
REQUESTS_WAITING = _overloaded(
    "RequestsWaiting",
    "{ready} of {desired} replicas serve, but on each of them requests wait all the time.",
)
LEAVING_NODE = Reason(
    "LeavingNode",
    "Moving",
    "True",
    "True",
    "False",
    "Node {detail} is cordoned: a successor of the only replica starts on another node, and the one "
    "there serves until then.",
    "None needed: an eviction is refused until the successor serves, and drains try again.",
    is_routine=True,
)
OUTAGE_AHEAD = Reason(
    "OutageAhead",
    "Moving",
    "True",
    "True",
    "False",
    "A successor of the only replica cannot start outside of cordoned node {detail}",
    "Once the replica is evicted the model is not served until there is room. To avoid it, add "
    "capacity or uncordon the node.",
    is_steady=True,
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
SUSPENDED = Reason(
    "Suspended",
    "Suspended",
    "False",
    "False",
    "False",
    "Suspended: no replica runs.",
    "To serve again, set spec.suspend to false.",
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
DOWNLOADING = _progressing(
    "Downloading",
    "Downloading",
    "The model is being downloaded: {detail}.",
    "Wait; a replica keeps what it has, also across a restart of the download.",
    is_routine=True,
    concerns_model=True,
)
LOADING = _progressing(
    "Loading",
    "Loading",
    "The engine is loading the model: {detail}.",
    "Wait; how long it takes depends on the model's size and the volume's speed.",
    is_routine=True,
    concerns_model=True,
)
WAITING_FOR_DRAIN = _progressing(
    "WaitingForDrain",
    "Updating",
    "A new replica waits for the room of one that is finishing its requests.",
    "Wait; spec.rollout.drainSeconds bounds it.",
    is_routine=True,
)
REPLACING_IN_PLACE = _progressing(
    "ReplacingInPlace",
    "Updating",
    "The only replica is stopped before its successor starts, for want of room for both or by "
    "spec.rollout.strategy: the model is not served from the end of its requests until the new one "
    "has loaded it.",
    "Wait; to avoid it, add capacity for one more replica or run two.",
    is_routine=True,
)
INSUFFICIENT_GPU = _progressing(
    "InsufficientGPU",
    "Pending",
    "No node has enough free GPUs: {detail}",
    "Free or add GPUs, or lower spec.resources.gpu.count or spec.replicas.",
)
UNSCHEDULABLE = _progressing(
    "Unschedulable",
    "Pending",
    "No node takes the replica: {detail}",
    "Free or add capacity, or change spec.resources or spec.scheduling.",
)
VOLUME_NOT_FOUND = _progressing(
    "VolumeNotFound",
    "Pending",
    "The model's volume does not exist: {detail}",
    "Create the PersistentVolumeClaim named in spec.model.uri, or correct the URI.",
    concerns_model=True,
)
VOLUME_NOT_BOUND = _progressing(
    "VolumeNotBound",
    "Pending",
    "The model's volume cannot be used yet: {detail}",
    "Look at it with `kubectl describe pvc CLAIM`; it needs a StorageClass that provisions, or a "
    "PersistentVolume that fits.",
    concerns_model=True,
)
IMAGE_NOT_FOUND = _progressing(
    "ImageNotFound",
    "Failing",
    "The image {image} does not exist: {detail}",
    "Correct spec.engine.image, or push the image.",
    is_steady=True,
)
IMAGE_PULL_DENIED = _progressing(
    "ImagePullDenied",
    "Failing",
    "The registry does not give the image {image}: {detail}",
    "Name a Secret with the registry's credentials in spec.engine.imagePullSecrets, or correct it.",
    is_steady=True,
)
IMAGE_PULL_FAILED = _progressing(
    "ImagePullFailed",
    "Failing",
    "The image {image} cannot be pulled: {detail}",
    "Check that the nodes reach the registry, and spec.engine.image.",
    is_steady=True,
)
SECRET_NOT_FOUND = _progressing(
    "SecretNotFound",
    "Failing",
    "A Secret or ConfigMap that the replica needs does not exist: {detail}",
    "Create it, or correct the reference in spec.model.secretRef or spec.engine.env.",
    is_steady=True,
)
SECRET_KEY_NOT_FOUND = _progressing(
    "SecretKeyNotFound",
    "Failing",
    "A Secret or ConfigMap lacks a key that the replica needs: {detail}",
    "Add the key, or correct the reference in spec.model.secretRef (key HF_TOKEN) or spec.engine.env.",
    is_steady=True,
)
CONFIG_ERROR = _progressing(
    "ContainerConfigError",
    "Failing",
    "The container cannot be made: {detail}",
    "Correct what the message names.",
    is_steady=True,
)
MODEL_ACCESS_DENIED = _stalled(
    "ModelAccessDenied",
    "Failed",
    "The hub does not give the model: {detail}",
    "Accept the model's licence on the hub, and name a Secret with a valid HF_TOKEN in "
    "spec.model.secretRef.",
    concerns_model=True,
    is_steady=True,
)
MODEL_NOT_FOUND = _stalled(
    "ModelNotFound",
    "Failed",
    "There is no such model: {detail}",
    "Correct spec.model.uri or spec.model.revision.",
    concerns_model=True,
    is_steady=True,
)
MODEL_FORMAT_UNSUPPORTED = _stalled(
    "ModelFormatUnsupported",
    "Failed",
    "The model cannot be served as it is: {detail}",
    "Name a model with *.safetensors of an architecture that the engine supports.",
    concerns_model=True,
    is_steady=True,
)
CHECKSUM_MISMATCH = _stalled(
    "ChecksumMismatch",
    "Failed",
    "What was downloaded is not what the hub lists: {detail}",
    "Look for a proxy or mirror that changes files, then delete the pod to try again.",
    concerns_model=True,
    is_steady=True,
)
MODEL_TOO_LARGE = _stalled(
    "ModelTooLarge",
    "Failed",
    "The model does not fit: {detail}",
    "Raise spec.resources (memory, or GPUs with spec.parallelism.tensor), or lower the context length "
    "by spec.engine.args.",
    concerns_model=True,
    is_steady=True,
)
DISK_FULL = _progressing(
    "DiskFull",
    "Failing",
    "The model does not fit on the disk: {detail}",
    "Free or add space on the node, or give the volume `model` more room by spec.podTemplate.",
    concerns_model=True,
    is_steady=True,
)
HUB_UNAVAILABLE = _progressing(
    "HubUnavailable",
    "Failing",
    "The hub cannot be reached: {detail}",
    "Check that pods reach the hub or its mirror; the download goes on by itself.",
    concerns_model=True,
    is_steady=True,
)
FETCH_FAILED = _progressing(
    "FetchFailed",
    "Failing",
    "The download of the model failed: {detail}",
    "Correct what the message names; the download is tried again.",
    concerns_model=True,
    is_steady=True,
)
OUT_OF_MEMORY = _progressing(
    "OutOfMemory",
    "Failing",
    "{detail}",
    "Raise spec.resources.memory, or lower the context length or the batch by spec.engine.args.",
    is_steady=True,
)
GPU_OUT_OF_MEMORY = _progressing(
    "GPUOutOfMemory",
    "Failing",
    "The engine ran out of GPU memory{often}: {detail}",
    "Give it more or larger GPUs (spec.resources.gpu, spec.parallelism.tensor), or lower the context "
    "length or the batch by spec.engine.args.",
    is_steady=True,
)
ENGINE_CRASHED = _progressing(
    "EngineCrashed",
    "Failing",
    "The engine exited with code {code}{often}: {detail}",
    "Read its log: kubectl logs -l serving.pagoda.dev/llmdeployment=NAME --previous.",
    is_steady=True,
)
ENGINE_HUNG = _progressing(
    "EngineHung",
    "Failing",
    "The engine made no progress and is restarted{often}: {detail}",
    "Wait for the restart; if it comes back, look for a driver error on the node or try another "
    "spec.engine.image.",
    is_steady=True,
)
NODE_LOST = _progressing(
    "NodeLost",
    "Failing",
    "A replica's node does not answer: {detail}",
    "Look at the node with `kubectl describe node`; the replica is made anew elsewhere when its "
    "toleration of a lost node ends, by default after 5 minutes.",
)
EVICTED = _progressing(
    "Evicted",
    "Failing",
    "A replica was ended by its node: {detail}",
    "Change what the message names, for example spec.resources; a new replica has been made.",
    is_steady=True,
)
QUOTA_EXCEEDED = _progressing(
    "QuotaExceeded",
    "Failing",
    "The namespace's quota does not allow the pod: {detail}",
    "Raise the ResourceQuota or lower spec.resources.",
    is_steady=True,
)
POD_TEMPLATE_INVALID = _stalled(
    "PodTemplateInvalid",
    "Failed",
    "spec.podTemplate cannot be used: {detail}. Nothing was changed by it.",
    "Correct what the message names in spec.podTemplate.",
)
POD_REJECTED = _progressing(
    "PodRejected",
    "Failing",
    "The API server does not admit the pod: {detail}",
    "Change what the message names, or the policy that refuses it.",
    is_steady=True,
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

OVERLOADED = (REQUESTS_REFUSED, REQUESTS_WAITING)  # the worse one first
REASONS: tuple[Reason, ...] = (
    READY,
    *OVERLOADED,
    SCALING,
    DEGRADED,
    LEAVING_NODE,
    OUTAGE_AHEAD,
    SCALED_TO_ZERO,
    SUSPENDED,
    STARTING,
    ROLLING_OUT,
    DOWNLOADING,
    LOADING,
    WAITING_FOR_DRAIN,
    REPLACING_IN_PLACE,
    INSUFFICIENT_GPU,
    UNSCHEDULABLE,
    VOLUME_NOT_FOUND,
    VOLUME_NOT_BOUND,
    IMAGE_NOT_FOUND,
    IMAGE_PULL_DENIED,
    IMAGE_PULL_FAILED,
    SECRET_NOT_FOUND,
    SECRET_KEY_NOT_FOUND,
    CONFIG_ERROR,
    MODEL_ACCESS_DENIED,
    MODEL_NOT_FOUND,
    MODEL_FORMAT_UNSUPPORTED,
    CHECKSUM_MISMATCH,
    MODEL_TOO_LARGE,
    DISK_FULL,
    HUB_UNAVAILABLE,
    FETCH_FAILED,
    OUT_OF_MEMORY,
    GPU_OUT_OF_MEMORY,
    ENGINE_CRASHED,
    ENGINE_HUNG,
    NODE_LOST,
    EVICTED,
    QUOTA_EXCEEDED,
    POD_TEMPLATE_INVALID,
    POD_REJECTED,
    FORBIDDEN,
    NOT_APPLIED_YET,
    RESOURCE_CONFLICT,
    INVALID_SPEC,
    PROGRESS_DEADLINE_EXCEEDED,
)
