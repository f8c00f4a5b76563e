"""The spec with all defaults filled in, and the hash that decides about new pods."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pagoda.api.env import EnvVar
from pagoda.api.exposure import Ingress
from pagoda.api.v1alpha1 import LLMDeploymentSpec
from pagoda.api.workload import Resources, Scheduling
from pagoda.engines import ENGINES, Accelerator, EngineProfile, LaunchRequest
from pagoda.render.objects import digest
from pagoda.render.quantity import parse_quantity
from pagoda.render.source import MODEL_MOUNT, ClaimSource, HubSource, model_source

DEFAULT_DRAIN_SECONDS = 60
DEFAULT_PROGRESS_DEADLINE_SECONDS = 1800
DEFAULT_SERVICE_PORT = 80
DEFAULT_GPU_RESOURCE = "nvidia.com/gpu"

Strategy = Literal["Auto", "Surge", "Replace"]


class SpecError(ValueError):
    """A spec that passed the CRD's validation and still cannot be used."""


@dataclass(frozen=True)
class Settings:
    """What the operator was started with and rendering depends on."""

    images: Mapping[str, str] = field(default_factory=dict)
    """Engine, or engine-accelerator (vllm-cpu), → default image; they win over the table's."""
    fetch_image: str = "pagoda:0.1.0"
    """Image of the download's container: the operator's own."""
    hub_endpoint: str | None = None
    """URL of a mirror of the Hugging Face hub."""


@dataclass(frozen=True)
class Gpus:
    """GPUs of one replica."""

    count: int
    resource_name: str
    product: str | None


@dataclass(frozen=True)
class Effective:
    """What is really run, after defaults."""

    profile: EngineProfile
    image: str
    pull_secrets: tuple[str, ...]
    user_args: tuple[str, ...]
    user_env: tuple[EnvVar, ...]
    source: ClaimSource | HubSource
    served_name: str
    launch: LaunchRequest
    cpu: str
    memory: str
    shared_memory: str | None
    gpus: Gpus | None
    strategy: Strategy
    progress_deadline_seconds: int
    service_account: str | None  # None: one of our own
    scheduling: Scheduling
    service_type: str
    service_port: int
    service_annotations: Mapping[str, str]
    ingress: Ingress | None
    settings: Settings

    @property
    def grace_period_seconds(self) -> int:
        """Time from the pod's deletion to SIGKILL: still accepting, draining, a margin to exit."""
        return self.profile.drain_delay_seconds + self.launch.drain_seconds + 10

    @property
    def overridden_args(self) -> list[str]:
        """List the user's flags that ours replace."""
        owned = self.profile.owned_flags(self.launch)
        return [arg for arg in self.user_args if arg.split("=", 1)[0] in owned]


def effective(name: str, spec: LLMDeploymentSpec, settings: Settings) -> Effective:
    """Fill in the defaults.

    Args:
        name: metadata.name, the default of the served name.
        spec: the user's spec.
        settings: the operator's own.

    Raises:
        SpecError: the spec cannot be used; the text says what to change.
    """
    engine, resources = spec.engine, spec.resources or Resources()
    gpus = _gpus(resources)
    accelerator: Accelerator = "gpu" if gpus else "cpu"
    engine_type = (engine and engine.type) or ("vllm" if gpus else "pagoda")
    profile = ENGINES.get(engine_type)
    if profile is None:
        raise SpecError(f"spec.engine.type {engine_type!r} is not one of {sorted(ENGINES)}")
    try:
        source = model_source(spec.model)
    except ValueError as error:
        raise SpecError(str(error)) from error
    served_name = spec.model.name or name
    defaults = profile.resources(gpus.count if gpus else 0)
    memory = str(resources.memory or defaults.memory)
    cpu = str(resources.cpu or defaults.cpu)
    rollout, service = spec.rollout, spec.expose and spec.expose.service
    drain = rollout.drain_seconds if rollout else None
    deadline = rollout.progress_deadline_seconds if rollout else None
    tensor = spec.parallelism.tensor if spec.parallelism else None
    return Effective(
        profile=profile,
        image=(engine and engine.image) or _default_image(profile, accelerator, settings),
        pull_secrets=tuple(ref.name for ref in (engine and engine.image_pull_secrets) or ()),
        user_args=tuple((engine and engine.args) or ()),
        user_env=tuple((engine and engine.env) or ()),
        source=source,
        served_name=served_name,
        launch=LaunchRequest(
            model_path=f"{MODEL_MOUNT}/{source.path}".rstrip("/"),
            served_name=served_name,
            drain_seconds=DEFAULT_DRAIN_SECONDS if drain is None else drain,
            memory_bytes=int(parse_quantity(memory)),
            cpus=math.ceil(parse_quantity(cpu)),
            gpus=gpus.count if gpus else 0,
            tensor_parallel=tensor or (gpus.count if gpus else 1),
        ),
        cpu=cpu,
        memory=memory,
        shared_memory=str(resources.shared_memory or defaults.shared_memory or "") or None,
        gpus=gpus,
        strategy=(rollout and rollout.strategy) or "Auto",
        progress_deadline_seconds=deadline or DEFAULT_PROGRESS_DEADLINE_SECONDS,
        service_account=spec.service_account_name,
        scheduling=spec.scheduling or Scheduling(),
        service_type=(service and service.type) or "ClusterIP",
        service_port=(service and service.port) or DEFAULT_SERVICE_PORT,
        service_annotations=(service and service.annotations) or {},
        ingress=spec.expose.ingress if spec.expose else None,
        settings=settings,
    )


def _gpus(resources: Resources) -> Gpus | None:
    if (gpu := resources.gpu) is None:
        return None
    return Gpus(gpu.count or 1, gpu.resource_name or DEFAULT_GPU_RESOURCE, gpu.product)


def _default_image(profile: EngineProfile, accelerator: Accelerator, settings: Settings) -> str:
    for key in (f"{profile.name}-{accelerator}", profile.name):
        if image := settings.images.get(key):
            return image
    return profile.images[accelerator]


def spec_hash(spec: LLMDeploymentSpec) -> str:
    """Hash what the user wrote that shapes a pod.

    Counts, suspension, routes and the strategy of a roll-out do not. Defaults are not part of it
    either: neither a newer operator nor another default image may restart pods by itself
    (`pagoda.render.template`).
    """
    written = spec.model_dump(
        mode="json",
        exclude_none=True,
        exclude={
            "replicas": True,
            "autoscaling": True,
            "expose": True,
            "suspend": True,
            "rollout": {"strategy"},
            "pod_template": True,
        },
    )
    content = _without_empty(written)
    if spec.pod_template:  # in a patch, null and empty lists say something
        content["pod_template"] = spec.pod_template
    return digest(content)


def _without_empty(value: Any) -> Any:
    """Drop empty objects and lists: `rollout: {}` says no more than nothing."""
    if isinstance(value, dict):
        kept = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in ({}, [])}
    return value
