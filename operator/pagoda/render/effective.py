"""The spec with all defaults filled in, and the hash that decides about new pods."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pagoda.api.v1alpha1 import EnvVar, LLMDeploymentSpec, Scheduling
from pagoda.engines import ENGINES, EngineProfile, LaunchRequest
from pagoda.render.objects import digest

DEFAULT_ENGINE = "pagoda"
DEFAULT_CPU = "1"
DEFAULT_MEMORY = "2Gi"
DEFAULT_DRAIN_SECONDS = 60
DEFAULT_PROGRESS_DEADLINE_SECONDS = 1800
DEFAULT_SERVICE_PORT = 80
MODEL_MOUNT = "/models"


class SpecError(ValueError):
    """A spec that passed the CRD's validation and still cannot be used."""


@dataclass(frozen=True)
class Effective:
    """What is really run, after defaults."""

    profile: EngineProfile
    image: str
    pull_secrets: tuple[str, ...]
    user_args: tuple[str, ...]
    user_env: tuple[EnvVar, ...]
    claim: str
    served_name: str
    launch: LaunchRequest
    cpu: str
    memory: str
    progress_deadline_seconds: int
    service_account: str | None  # None: one of our own
    scheduling: Scheduling
    service_type: str
    service_port: int
    service_annotations: Mapping[str, str]

    @property
    def grace_period_seconds(self) -> int:
        """Time from SIGTERM to SIGKILL: still accepting, draining, and a margin to exit."""
        return self.profile.drain_delay_seconds + self.launch.drain_seconds + 10

    @property
    def overridden_args(self) -> list[str]:
        """List the user's flags that ours replace."""
        owned = self.profile.owned_flags(self.launch)
        return [arg for arg in self.user_args if arg.split("=", 1)[0] in owned]


def effective(name: str, spec: LLMDeploymentSpec, default_images: Mapping[str, str]) -> Effective:
    """Fill in the defaults.

    Args:
        name: metadata.name, the default of the served name.
        spec: the user's spec.
        default_images: engine type → image, the operator's settings; they win over the table's.

    Raises:
        SpecError: the spec cannot be used; the text says what to change.
    """
    engine = spec.engine
    engine_type = (engine and engine.type) or DEFAULT_ENGINE
    profile = ENGINES.get(engine_type)
    if profile is None:
        raise SpecError(f"spec.engine.type {engine_type!r} is not one of {sorted(ENGINES)}")
    claim, path = split_pvc_uri(spec.model.uri)
    served_name = spec.model.name or name
    rollout, service = spec.rollout, spec.expose and spec.expose.service
    drain = rollout.drain_seconds if rollout else None
    deadline = rollout.progress_deadline_seconds if rollout else None
    resources = spec.resources
    return Effective(
        profile=profile,
        image=(engine and engine.image) or default_images.get(engine_type) or profile.default_image,
        pull_secrets=tuple(ref.name for ref in (engine and engine.image_pull_secrets) or ()),
        user_args=tuple((engine and engine.args) or ()),
        user_env=tuple((engine and engine.env) or ()),
        claim=claim,
        served_name=served_name,
        launch=LaunchRequest(
            model_path=f"{MODEL_MOUNT}/{path}".rstrip("/"),
            served_name=served_name,
            drain_seconds=DEFAULT_DRAIN_SECONDS if drain is None else drain,
        ),
        cpu=str((resources and resources.cpu) or DEFAULT_CPU),
        memory=str((resources and resources.memory) or DEFAULT_MEMORY),
        progress_deadline_seconds=deadline or DEFAULT_PROGRESS_DEADLINE_SECONDS,
        service_account=spec.service_account_name,
        scheduling=spec.scheduling or Scheduling(),
        service_type=(service and service.type) or "ClusterIP",
        service_port=(service and service.port) or DEFAULT_SERVICE_PORT,
        service_annotations=(service and service.annotations) or {},
    )


def split_pvc_uri(uri: str) -> tuple[str, str]:
    """Split `pvc://claim/some/path` into the claim and the path within it."""
    scheme, _, rest = uri.partition("://")
    claim, _, path = rest.partition("/")
    if scheme != "pvc" or not claim:
        raise SpecError(f"spec.model.uri {uri!r} does not look like pvc://CLAIM/PATH")
    return claim, path.strip("/")


def spec_hash(spec: LLMDeploymentSpec) -> str:
    """Hash what the user wrote that shapes a pod.

    Counts and the Service do not. Defaults are not part of it either: neither a newer operator nor
    another default image may restart pods by itself (`pagoda.render.template`).
    """
    written = spec.model_dump(mode="json", exclude_none=True, exclude={"replicas", "expose"})
    return digest(_without_empty(written))


def _without_empty(value: Any) -> Any:
    """Drop empty objects and lists: `rollout: {}` says no more than nothing."""
    if isinstance(value, dict):
        kept = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in ({}, [])}
    return value
