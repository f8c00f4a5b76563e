"""The plan: all objects of one LLMDeployment, in the order in which they are applied."""

from dataclasses import dataclass

from pagoda.api.autoscaling import Autoscaling
from pagoda.api.v1alpha1 import LLMDeploymentSpec
from pagoda.render.autoscaler import (
    NO_SCALING_FACTS,
    ScalingFacts,
    autoscaler,
    min_replicas,
    target_of,
)
from pagoda.render.deployment import SURGE, RollingUpdate, deployment
from pagoda.render.disruption import disruption_budget
from pagoda.render.effective import Effective, Settings, effective, spec_hash
from pagoda.render.ingress import UNKNOWN_CLASS, IngressClassFact, ingress, ingress_url
from pagoda.render.objects import Object, Owner
from pagoda.render.pod import CONTAINER, pod_template
from pagoda.render.pod_patch import patched
from pagoda.render.service import service, url
from pagoda.render.serviceaccount import service_account
from pagoda.render.suspension import suspended_count, suspension
from pagoda.render.template import (
    TemplateChoice,
    choose_template,
    controller_revision,
)


@dataclass(frozen=True)
class Facts:
    """What rendering needs to know besides the spec."""

    settings: Settings
    pinned: Object | None  # the ControllerRevision kept for this spec
    live_deployment: Object | None
    rolling: RollingUpdate = SURGE
    # Whether the PDB may forbid to evict the only replica: it gets a successor when its node is
    # cordoned, and can start elsewhere.
    holds_last: bool = True
    ingress_class: IngressClassFact = UNKNOWN_CLASS
    scaling: ScalingFacts = NO_SCALING_FACTS


@dataclass(frozen=True)
class Plan:
    """What should exist."""

    owner: Owner
    effective: Effective
    choice: TemplateChoice
    objects: tuple[Object, ...]
    replicas: int | None  # None: not ours to say
    is_suspended: bool
    autoscaling: Autoscaling | None  # None: the count does not follow the load
    scaling_target: int | None  # output tokens/s per replica; None: unknown
    resumed_replicas: int | None  # the count before the suspension that ends with this plan
    url: str
    ingress_url: str | None
    ingress_class: IngressClassFact

    def start_count(self, last: int | None) -> int | None:
        """The count of a Deployment that is made (again), after `last` the time before; None leaves
        it to the API server, which makes it 1.
        """
        scaling = self.autoscaling
        if scaling is None or scaling.mode == "Shadow":
            return last
        return max(min_replicas(scaling), min(last or 1, scaling.max_replicas))

    @property
    def image(self) -> str:
        """The engine image in force, which the kept template may hold back from a newer default."""
        containers = self.choice.template["spec"]["containers"]
        return str(next(c["image"] for c in containers if c["name"] == CONTAINER))


def desired(owner: Owner, spec: LLMDeploymentSpec, facts: Facts) -> Plan:
    """Render everything.

    Raises:
        SpecError: the spec cannot be used.
    """
    eff = effective(owner.name, spec, facts.settings)
    account = eff.service_account or owner.name
    hash_of_spec = spec_hash(spec)
    choice = choose_template(
        owner=owner,
        spec_hash=hash_of_spec,
        fresh=patched(pod_template(owner, eff, account), spec.pod_template),
        pinned=facts.pinned,
        live_deployment=facts.live_deployment,
    )
    live, suspended = facts.live_deployment, bool(spec.suspend)
    count = 0 if suspended else spec.replicas
    scaling = spec.autoscaling
    marks = suspension(live) if suspended and live is not None else {}
    objects = [controller_revision(owner, hash_of_spec, choice)]
    if live is not None or not suspended:  # what is suspended from the start has nothing to keep
        objects.append(deployment(owner, eff, choice.template, hash_of_spec, marks, facts.rolling))
    present = _count(live, scaling) if count is None else count
    last = present <= 1  # also at 0: scaling up needs no write
    keeps_last = last and facts.holds_last and eff.strategy != "Replace"
    objects += [service(owner, eff), disruption_budget(owner, keeps_last=keeps_last)]
    if eff.service_account is None:
        objects.insert(0, service_account(owner))
    if eff.ingress is not None:
        objects.append(ingress(owner, eff.ingress, facts.ingress_class))
    # Without a Deployment there is nothing to scale; at 0 an HPA does nothing.
    if scaling is not None and scaling.mode != "Shadow" and (live is not None or not suspended):
        objects.append(autoscaler(owner, scaling, facts.scaling))
    return Plan(
        owner=owner,
        effective=eff,
        choice=choice,
        objects=tuple(objects),
        replicas=count,
        is_suspended=suspended,
        autoscaling=scaling,
        scaling_target=target_of(scaling, facts.scaling) if scaling else None,
        resumed_replicas=None if suspended else suspended_count(live),
        url=url(owner, eff),
        ingress_url=ingress_url(eff.ingress) if eff.ingress else None,
        ingress_class=facts.ingress_class,
    )


def _count(live: Object | None, scaling: Autoscaling | None) -> int:
    """Give the count that is not ours to say: what it is, or will be to begin with."""
    if live is not None:
        return int(live["spec"].get("replicas", 1))
    return 1 if scaling is None or scaling.mode == "Shadow" else min_replicas(scaling)
