"""spec.podTemplate: the user's patch on the rendered pod template, and what it must leave alone."""

from typing import Any

from pagoda.render.effective import SpecError
from pagoda.render.objects import MANAGED_BY_LABEL, REVISION_LABEL, SELECTOR_LABEL, Object, digest
from pagoda.render.pod import CONTAINER
from pagoda.render.strategic_merge import PatchError, strategic_merge

HTTP_PORT = "http"


class PodTemplateError(SpecError):
    """spec.podTemplate cannot be used; the text names the path within it."""


def patched(template: Object, patch: dict[str, Any] | None) -> Object:
    """Apply spec.podTemplate and label the result with the hash of its content.

    Args:
        template: the rendered template, without the label of the revision.
        patch: spec.podTemplate.

    Raises:
        PodTemplateError: the patch has a wrong shape, or changes what must stay.
    """
    if patch:
        _check_parts(patch)
        try:
            merged = strategic_merge(template, patch)
        except PatchError as error:
            raise PodTemplateError(str(error)) from error
        _check_kept(template, merged)
        template = merged
    metadata = template["metadata"]
    content = {"labels": metadata["labels"], "spec": template["spec"]}
    if annotations := metadata.get("annotations"):
        content["annotations"] = annotations
    labels = metadata["labels"] | {REVISION_LABEL: digest(content)}
    return {"metadata": metadata | {"labels": labels}, "spec": template["spec"]}


def _check_parts(patch: dict[str, Any]) -> None:
    for key, part in patch.items():
        if key not in ("metadata", "spec"):
            raise PodTemplateError(
                f"{key} does not belong here; a pod template has metadata and spec"
            )
        if not isinstance(part, dict):
            raise PodTemplateError(f"{key} must be a map")
    metadata = patch.get("metadata", {})
    for key, part in metadata.items():
        if key not in ("labels", "annotations"):
            raise PodTemplateError(f"metadata.{key} cannot be set; labels and annotations can")
        if not isinstance(part, dict):
            raise PodTemplateError(f"metadata.{key} must be a map")
        for name, value in part.items():
            if not isinstance(value, str | None) and not name.startswith("$"):
                raise PodTemplateError(f"metadata.{key}: the value of {name} must be a string")
    if REVISION_LABEL in metadata.get("labels", {}):
        raise PodTemplateError(f"metadata.labels: {REVISION_LABEL} is the operator's; leave it out")


def _check_kept(before: Object, after: Object) -> None:
    """Refuse a change of what the other objects and the operator find the pods by."""
    if "spec" not in after:
        raise PodTemplateError("spec must not be deleted")
    labels = after["metadata"].get("labels", {})
    for label in (SELECTOR_LABEL, MANAGED_BY_LABEL):
        if labels.get(label) != before["metadata"]["labels"][label]:
            raise PodTemplateError(
                f"metadata.labels: {label} must stay, the Service and the operator find pods by it"
            )
    spec = after["spec"]
    engine = next((c for c in spec.get("containers", ()) if c["name"] == CONTAINER), None)
    if engine is None:
        raise PodTemplateError(
            f"spec.containers: the container {CONTAINER} must stay; change it instead of deleting it"
        )
    if not any(port.get("name") == HTTP_PORT for port in engine.get("ports", ())):
        raise PodTemplateError(
            f"spec.containers: the container {CONTAINER} must keep its port {HTTP_PORT}, which the "
            "Service and the probes use"
        )
    if spec.get("restartPolicy", "Always") != "Always":
        raise PodTemplateError(
            "spec.restartPolicy must be Always: a replica that ends is restarted"
        )
