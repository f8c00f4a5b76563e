"""How the model is reached, and whether those ways work. Pure."""

from dataclasses import dataclass

from pagoda.api.conditions import Status
from pagoda.api.status import Address
from pagoda.render.objects import Object
from pagoda.render.plan import Plan


@dataclass(frozen=True)
class Routes:
    """What status says about the ways to the model."""

    ready: tuple[Status, str, str]
    """Status, reason and message of RoutesReady."""
    url: str | None
    addresses: list[Address] | None


def observe_routes(plan: Plan, *, has_service: bool, ingress: Object | None) -> Routes:
    """Judge the routes of a plan.

    Args:
        plan: what should exist.
        has_service: whether the Service exists.
        ingress: the Ingress as it is, with what its controller wrote into the status.
    """
    if not has_service:
        missing = "The Service does not exist yet."
        return Routes(("False", "ServiceMissing", missing), None, None)
    addresses = [Address(name="internal", url=plan.url)]
    if plan.ingress_url is None:
        return Routes(("True", "ServiceReady", "The Service exists."), plan.url, addresses)
    addresses.append(Address(name="ingress", url=plan.ingress_url))
    # Some controllers go by the class's name alone: Contour brings no IngressClass.
    if where := _admitted_at(ingress):
        text = f"The Ingress is served at {where}."
        return Routes(("True", "IngressAdmitted", text), plan.ingress_url, addresses)
    if plan.ingress_class.is_missing:
        text = (
            "There is no IngressClass of the name in spec.expose.ingress.className. "
            "Correct it (kubectl get ingressclasses), or install the controller."
        )
        return Routes(("False", "IngressClassNotFound", text), plan.url, addresses)
    text = (
        "No controller has given the Ingress an address yet. If it stays so, see whether the "
        "controller of its class runs, and what it says: kubectl describe ingress."
    )
    return Routes(("Unknown", "IngressPending", text), plan.url, addresses)


def _admitted_at(ingress: Object | None) -> str:
    status = (ingress or {}).get("status", {}).get("loadBalancer", {})
    points = status.get("ingress") or ()
    return ", ".join(sorted(p.get("hostname") or p.get("ip") or "?" for p in points))
