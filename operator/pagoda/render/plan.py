"""The plan: all objects of one LLMDeployment, in the order in which they are applied."""

from collections.abc import Mapping
from dataclasses import dataclass

from pagoda.api.v1alpha1 import LLMDeploymentSpec
from pagoda.render.deployment import deployment
from pagoda.render.disruption import disruption_budget
from pagoda.render.effective import Effective, effective, spec_hash
from pagoda.render.objects import Object, Owner
from pagoda.render.pod import pod_template
from pagoda.render.service import service, url
from pagoda.render.serviceaccount import service_account
from pagoda.render.template import (
    TemplateChoice,
    choose_template,
    controller_revision,
)


@dataclass(frozen=True)
class Facts:
    """What rendering needs to know besides the spec."""

    default_images: Mapping[str, str]
    pinned: Object | None  # the ControllerRevision kept for this spec
    live_deployment: Object | None


@dataclass(frozen=True)
class Plan:
    """What should exist."""

    owner: Owner
    effective: Effective
    choice: TemplateChoice
    objects: tuple[Object, ...]
    replicas: int | None  # None: not ours to say
    url: str

    @property
    def image(self) -> str:
        """The engine image in force, which the kept template may hold back from a newer default."""
        return str(self.choice.template["spec"]["containers"][0]["image"])


def desired(owner: Owner, spec: LLMDeploymentSpec, facts: Facts) -> Plan:
    """Render everything.

    Raises:
        SpecError: the spec cannot be used.
    """
    eff = effective(owner.name, spec, facts.default_images)
    account = eff.service_account or owner.name
    hash_of_spec = spec_hash(spec)
    choice = choose_template(
        owner=owner,
        spec_hash=hash_of_spec,
        fresh=pod_template(owner, eff, account),
        pinned=facts.pinned,
        live_deployment=facts.live_deployment,
    )
    objects = [
        controller_revision(owner, hash_of_spec, choice),
        deployment(owner, eff, choice.template, hash_of_spec),
        service(owner, eff),
        disruption_budget(owner),
    ]
    if eff.service_account is None:
        objects.insert(0, service_account(owner))
    return Plan(owner, eff, choice, tuple(objects), spec.replicas, url(owner, eff))
