"""Who holds the GPUs: how many a replica lacks, said so that somebody can act. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

NAMED_HOLDERS = 5


@dataclass(frozen=True)
class GpuNode:
    """A node with extended resources."""

    name: str
    labels: Mapping[str, str]
    allocatable: Mapping[str, int]
    is_usable: bool  # ready and not cordoned


@dataclass(frozen=True)
class GpuHolder:
    """A pod that has extended resources on a node."""

    namespace: str
    name: str  # of the LLMDeployment where there is one, else of the pod
    is_ours: bool
    node: str
    counts: Mapping[str, int]


@dataclass(frozen=True)
class GpuSurvey:
    """What there is and who has it. `nodes` is None where we may not list them."""

    nodes: tuple[GpuNode, ...] | None
    holders: tuple[GpuHolder, ...] = field(default=())


def shortage(
    survey: GpuSurvey,
    *,
    resource: str,
    wanted: int,
    selector: Mapping[str, str],
    namespace: str,
) -> str | None:
    """Say how many GPUs are missing and who holds them.

    Args:
        survey: what there is.
        resource: the extended resource, such as nvidia.com/gpu.
        wanted: how many a replica asks for.
        selector: labels that its node must have.
        namespace: the replica's; holders of others are only counted.

    Returns:
        A sentence without a full stop, or None if the GPUs are not what is missing.
    """
    holders = [h for h in survey.holders if h.counts.get(resource)]
    if survey.nodes is None:
        return f"{wanted} {resource} needed" + _held(holders, resource, namespace)
    offering = [n for n in survey.nodes if n.allocatable.get(resource)]
    if not offering:
        return f"{wanted} {resource} needed and no node offers any; its device plugin reports them"
    fitting = [n for n in offering if selector.items() <= n.labels.items()]
    if not fitting:
        return _no_product(offering, resource, selector)
    usable = [n for n in fitting if n.is_usable]
    names = {n.name for n in usable}
    holders = [h for h in holders if h.node in names]
    free = {
        n.name: n.allocatable[resource]
        - sum(h.counts[resource] for h in holders if h.node == n.name)
        for n in usable
    }
    most, largest = max(free.values(), default=0), max(n.allocatable[resource] for n in fitting)
    if most >= wanted:
        return None
    if largest < wanted:
        return f"{wanted} {resource} needed on one node and the largest has {largest}"
    total = sum(n.allocatable[resource] for n in usable)
    where = f"{len(usable)} node{'s' * (len(usable) != 1)}"
    left_out = len(fitting) - len(usable)
    aside = f" ({left_out} more cordoned or not ready)" if left_out else ""
    return (
        f"{wanted} {resource} needed on one node and {most} free, so {wanted - most} missing; "
        f"{where}{aside} with {total}" + _held(holders, resource, namespace)
    )


def _no_product(nodes: list[GpuNode], resource: str, selector: Mapping[str, str]) -> str:
    wanted = ", ".join(f"{key}={value}" for key, value in sorted(selector.items()))
    there = sorted({f"{key}={n.labels[key]}" for n in nodes for key in selector if key in n.labels})
    offer = f"; there are {', '.join(there[:NAMED_HOLDERS])}" if there else ""
    return f"no node with {resource} has the label {wanted}{offer}"


def _held(holders: Iterable[GpuHolder], resource: str, namespace: str) -> str:
    """List the holders of the own namespace by name, and count the others."""
    near: dict[str, int] = {}
    far, far_pods = 0, 0
    for holder in holders:
        count = holder.counts[resource]
        if holder.namespace == namespace:
            kind = "LLMDeployment" if holder.is_ours else "pod"
            label = f"{kind} {holder.name}"
            near[label] = near.get(label, 0) + count
        else:
            far, far_pods = far + count, far_pods + 1
    ranked = sorted(near.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{label} ({count})" for label, count in ranked[:NAMED_HOLDERS]]
    if rest := ranked[NAMED_HOLDERS:]:
        parts.append(f"{len(rest)} more here ({sum(count for _, count in rest)})")
    if far:
        parts.append(f"{far_pods} pod{'s' * (far_pods != 1)} of other namespaces ({far})")
    return f", held by {', '.join(parts)}" if parts else ""
