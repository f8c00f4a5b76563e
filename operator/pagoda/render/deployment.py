"""The Deployment of engine pods."""

from collections.abc import Mapping
from dataclasses import dataclass

from pagoda.render.effective import Effective
from pagoda.render.objects import SPEC_HASH_ANNOTATION, Object, Owner


@dataclass(frozen=True)
class RollingUpdate:
    """How a roll-out goes about its pods."""

    max_surge: int
    max_unavailable: int


SURGE = RollingUpdate(1, 0)  # an extra pod first
REPLACE = RollingUpdate(0, 1)  # an old pod makes room first


def deployment(
    owner: Owner,
    eff: Effective,
    template: Object,
    spec_hash: str,
    annotations: Mapping[str, str],
    rolling: RollingUpdate,
) -> Object:
    """Build the Deployment.

    `replicas` is left out on purpose: it belongs to a field manager of its own
    (`pagoda.controller.apply`), or dropping it here would set the count to 1.
    """
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": owner.metadata(
            annotations={SPEC_HASH_ANNOTATION: spec_hash} | dict(annotations)
        ),
        "spec": {
            "selector": {"matchLabels": owner.selector()},
            "template": template,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {
                    "maxSurge": rolling.max_surge,
                    "maxUnavailable": rolling.max_unavailable,
                },
            },
            "progressDeadlineSeconds": eff.progress_deadline_seconds,
            # Old templates are of no use here: the spec, not `kubectl rollout undo`, says what runs.
            "revisionHistoryLimit": 1,
        },
    }
