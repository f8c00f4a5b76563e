"""Renderer pinning: which pod template is in force.

A pod template is rendered once per spec and then kept, byte for byte, in a ControllerRevision. As
long as the spec's hash stays, the kept template is applied again, whatever a newer operator would
render or whatever its default image is; so an operator upgrade restarts no pod. That a newer
rendering exists is shown in status and taken by setting spec.rollout.rendering, which is part of
the hash.
"""

from dataclasses import dataclass

from pagoda.render.objects import REVISION_LABEL, SPEC_HASH_ANNOTATION, Object, Owner


@dataclass(frozen=True)
class TemplateChoice:
    """The template in force."""

    template: Object
    available: str | None  # hash of a newer rendering, if the renderer would now render another
    revision_number: int

    @property
    def revision(self) -> str:
        """The template's hash."""
        return str(self.template["metadata"]["labels"][REVISION_LABEL])


def choose_template(
    *,
    owner: Owner,
    spec_hash: str,
    fresh: Object,
    pinned: Object | None,
    live_deployment: Object | None,
) -> TemplateChoice:
    """Choose between the kept template and a fresh one.

    Args:
        owner: the LLMDeployment.
        spec_hash: hash of the spec as it is now.
        fresh: the template this renderer makes for it.
        pinned: the ControllerRevision kept for `spec_hash`, if there is one.
        live_deployment: the Deployment, whose template is adopted if the ControllerRevision was lost.
    """
    fresh_revision = fresh["metadata"]["labels"][REVISION_LABEL]
    kept, number = fresh, owner.generation
    if pinned is not None:
        kept, number = pinned["data"]["template"], pinned["revision"]
    elif live_deployment is not None:
        metadata, spec = live_deployment["metadata"], live_deployment["spec"]
        live = spec["template"]
        if metadata.get("annotations", {}).get(SPEC_HASH_ANNOTATION) == spec_hash and (
            REVISION_LABEL in live["metadata"].get("labels", {})
        ):
            kept = {"metadata": _without_null(live["metadata"]), "spec": live["spec"]}
    newer = kept["metadata"]["labels"][REVISION_LABEL] != fresh_revision
    return TemplateChoice(kept, fresh_revision if newer else None, number)


def controller_revision(owner: Owner, spec_hash: str, choice: TemplateChoice) -> Object:
    """Build the object that keeps the template."""
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": owner.metadata(controller_revision_name(owner, spec_hash)),
        "revision": choice.revision_number,
        "data": {"template": choice.template},
    }


def controller_revision_name(owner: Owner, spec_hash: str) -> str:
    """Name it by what it was rendered from: at most 52 + 1 + 10 characters."""
    return f"{owner.name}-{spec_hash}"


def _without_null(metadata: Object) -> Object:
    return {key: value for key, value in metadata.items() if value is not None}
