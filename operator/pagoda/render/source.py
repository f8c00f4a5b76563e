"""Where a model comes from, and the volume that brings it to `/models`."""

from dataclasses import dataclass

from pagoda.api.workload import ModelSource
from pagoda.render.objects import Object

MODEL_MOUNT = "/models"
MODEL_VOLUME = "model"


@dataclass(frozen=True)
class ClaimSource:
    """A directory in a PersistentVolumeClaim."""

    claim: str
    path: str


@dataclass(frozen=True)
class HubSource:
    """A repository of the Hugging Face hub, downloaded by each pod."""

    uri: str
    revision: str | None
    secret: str | None
    path: str = "model"


def model_source(model: ModelSource) -> ClaimSource | HubSource:
    """Read spec.model.

    Raises:
        ValueError: the URI is none that we know; the text says what it should look like.
    """
    scheme, _, rest = model.uri.partition("://")
    if scheme == "hf" and rest:
        secret = model.secret_ref.name if model.secret_ref else None
        return HubSource(model.uri, model.revision, secret)
    claim, _, path = rest.partition("/")
    if scheme != "pvc" or not claim:
        raise ValueError(
            f"spec.model.uri {model.uri!r} does not look like pvc://CLAIM/PATH or hf://ORG/NAME"
        )
    return ClaimSource(claim, path.strip("/"))


def model_volume(source: ClaimSource | HubSource) -> Object:
    """Build the pod's volume that holds the model."""
    if isinstance(source, ClaimSource):
        claim = {"claimName": source.claim, "readOnly": True}
        return {"name": MODEL_VOLUME, "persistentVolumeClaim": claim}
    return {"name": MODEL_VOLUME, "emptyDir": {}}
