"""Our APIService: made only where nobody else serves the group, withdrawn when somebody comes.

The HPA controller uses one version of custom.metrics.k8s.io for all HPAs of the cluster. Ours
beside another server's, in whichever version, would take the metrics away from all HPAs that live
on the other's.
"""

import base64
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from pagoda.autoscaling.server.discovery import GROUP, VERSION
from pagoda.kube.client import KubeClient
from pagoda.kube.errors import ConflictError, NotFoundError
from pagoda.kube.resources import API_SERVICE, CLUSTER_ROLE
from pagoda.render.objects import MANAGED_BY, MANAGED_BY_LABEL, Object

log = logging.getLogger(__name__)

NAME = f"{VERSION}.{GROUP}"
MANAGER = "pagoda-metrics-server"
OWNED_BY_OTHER = "MetricsAPIOwnedByOther"
NOT_REGISTERED = "MetricsAPINotRegistered"
OWNER_MISSING = "MetricsAPIOwnerMissing"


@dataclass(frozen=True)
class Service:
    """Where the API server is to send requests."""

    namespace: str
    name: str
    port: int

    def reference(self) -> Object:
        """Build spec.service of an APIService."""
        return {"namespace": self.namespace, "name": self.name, "port": self.port}


@dataclass(frozen=True)
class Claims:
    """Who has the group."""

    ours: Object | None
    others: list[str] = field(default_factory=list)
    taken: Object | None = None
    """Of others, the one that has the name of ours and may once have been it."""


def keep(obj: Object) -> Object:
    """Take from an APIService what matters; nothing from one of another group."""
    if obj["spec"].get("group") != GROUP:
        return {}
    metadata = obj["metadata"]
    wanted = ("name", "uid", "resourceVersion", "labels", "ownerReferences")
    return {"metadata": {k: metadata[k] for k in wanted if k in metadata}, "spec": obj["spec"]}


def claims(services: Iterable[Object], service: Service) -> Claims:
    """Sort the group's APIServices into ours and others'.

    Ours has our label and leads to our Service: another release of Pagoda is a stranger too.
    """
    ours, taken, others = None, None, []
    for obj in services:
        if not obj:
            continue
        target = obj["spec"].get("service") or {}
        labels = obj["metadata"].get("labels", {})
        same = (target.get("namespace"), target.get("name")) == (service.namespace, service.name)
        if same and labels.get(MANAGED_BY_LABEL) == MANAGED_BY:
            ours = obj
        else:
            others.append(obj["metadata"]["name"])
            if obj["metadata"]["name"] == NAME:
                taken = obj
    return Claims(ours, sorted(others), taken)


class Registration:
    """Makes, corrects and withdraws our APIService."""

    def __init__(self, client: KubeClient, service: Service, owner: str):
        """Take what it leads to and the name of the chart's ClusterRole, with which it goes."""
        self._client = client
        self._service = service
        self._owner = owner
        self.reason = NOT_REGISTERED
        """Why the group is not ours; "" when it is."""
        self.message = "the metrics server has only just started"

    async def settle(self, found: Claims, bundle: bytes, *, may_begin: bool) -> None:
        """Bring the APIService to what it should be.

        Args:
            found: who has the group.
            bundle: the authorities of our certificates, PEM.
            may_begin: whether this replica can answer; until then none is made.

        Raises:
            KubeError: it could not be; to be tried again.
        """
        if found.others:
            others = ", ".join(found.others)
            self._hold(OWNED_BY_OTHER, f"{others} of another server has the API group {GROUP}")
            if found.ours is not None:
                await self._withdraw(found.ours)
            if found.taken is not None:
                await self._disown(found.taken)
        elif found.ours is not None:
            await self._correct(found.ours, bundle)
            self._hold("", "")
        elif may_begin:
            await self._make(bundle)

    async def _make(self, bundle: bytes) -> None:
        owner = await self._owner_reference()
        if owner is None:
            # Without an owner nothing would remove it with the chart, and an API group that
            # nobody serves keeps namespaces from being deleted.
            role = f"the ClusterRole {self._owner} does not exist"
            self._hold(OWNER_MISSING, f"{role}; it must own the APIService")
            return
        obj = {
            "apiVersion": API_SERVICE.api_version,
            "kind": API_SERVICE.kind,
            "metadata": {
                "name": NAME,
                "labels": {MANAGED_BY_LABEL: MANAGED_BY},
                "ownerReferences": [owner],
            },
            "spec": self._spec(bundle),
        }
        try:
            await self._client.create(API_SERVICE, obj)
        except ConflictError:  # somebody was faster; the watch tells who
            return
        self._hold("", "")
        log.info("APIService %s made", NAME)

    async def _correct(self, ours: Object, bundle: bytes) -> None:
        wanted = self._spec(bundle)
        if all(ours["spec"].get(key) == value for key, value in wanted.items()):
            return
        if await self._change(ours, spec=wanted):
            log.info("APIService %s corrected", NAME)

    async def _withdraw(self, ours: Object) -> None:
        try:
            await self._client.delete(API_SERVICE, ours)
        except (ConflictError, NotFoundError):
            return
        log.warning("APIService %s withdrawn", NAME)

    async def _disown(self, taken: Object) -> None:
        """Take our owner from what another server's installation made of ours: it would go with our
        chart.
        """
        owners = taken["metadata"].get("ownerReferences", [])
        left = [
            owner
            for owner in owners
            if (owner["kind"], owner["name"]) != (CLUSTER_ROLE.kind, self._owner)
        ]
        if left == owners:
            return
        if await self._change(taken, metadata={"ownerReferences": left}):
            log.warning("APIService %s was taken over and is not ours any more", NAME)

    async def _change(self, known: Object, **parts: Object) -> bool:
        """Merge parts into the APIService; False if it is not any more what is known of it."""
        version = {"resourceVersion": known["metadata"]["resourceVersion"]}
        patch = parts | {"metadata": parts.get("metadata", {}) | version}
        try:
            await self._client.merge(API_SERVICE, None, NAME, patch, manager=MANAGER)
        except (ConflictError, NotFoundError):  # the watch tells what it is now
            return False
        return True

    async def _owner_reference(self) -> Object | None:
        try:
            role = await self._client.get(CLUSTER_ROLE, None, self._owner)
        except NotFoundError:
            return None
        return {
            "apiVersion": CLUSTER_ROLE.api_version,
            "kind": CLUSTER_ROLE.kind,
            "name": self._owner,
            "uid": role["metadata"]["uid"],
        }

    def _spec(self, bundle: bytes) -> Object:
        return {
            "group": GROUP,
            "version": VERSION,
            "groupPriorityMinimum": 100,
            "versionPriority": 200,
            "service": self._service.reference(),
            "caBundle": base64.b64encode(bundle).decode(),
        }

    def _hold(self, reason: str, message: str) -> None:
        if reason and reason != self.reason:
            log.warning("the API group %s is not ours: %s", GROUP, message)
        self.reason, self.message = reason, message
