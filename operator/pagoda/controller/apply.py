"""Writing children: server-side apply, skipped when nothing would change.

At rest nothing is written, also right after a restart: the digest of what was applied stands in an
annotation, so a restarted operator knows that the live object is its own work without sending it
again. Where that is not enough to tell, a dry run decides.
"""

import contextlib
import logging
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter

from pagoda.api import GROUP
from pagoda.controller.cache import ObjectCache, controller_uid, parent_key
from pagoda.controller.projection import project, restored_lists
from pagoda.controller.queue import Key
from pagoda.kube.client import KubeClient
from pagoda.kube.errors import ConflictError, NotFoundError, PodSecurityError
from pagoda.kube.resources import DEPLOYMENT, Resource, resource_of
from pagoda.kube.strangers import Strangers
from pagoda.render.objects import SUCCESSOR_OF_ANNOTATION, Object, digest

log = logging.getLogger(__name__)

MANAGER = "pagoda-operator"
REPAIR_MANAGER = "pagoda-operator-repair"
REPLICAS_MANAGER = "pagoda-operator-replicas"
SUCCESSOR_MANAGER = "pagoda-operator-successor"
APPLIED_ANNOTATION = f"{GROUP}/applied"

# How a Warning of the PodSecurity admission begins (Kubernetes 1.36).
POD_SECURITY_FINDING = "would violate PodSecurity"

APPLIES = Counter("pagoda_apply_total", "Children by outcome.", ["kind", "outcome"])


class ResourceConflictError(Exception):
    """An object with the child's name exists and is not ours."""


@dataclass(frozen=True)
class _Memory:
    """What we applied and what the server made of it."""

    uid: str
    digest: str
    projection: Any


@dataclass(frozen=True)
class Change:
    """A child that must be written."""

    wanted: Object  # with our mark
    mark: str
    live: Object | None

    @property
    def resource(self) -> Resource:
        """What kind of child it is."""
        return resource_of(self.wanted)

    @property
    def is_drift(self) -> bool:
        """Whether we applied just this before and others have changed it since."""
        return self.live is not None and _applied_digest(self.live) == self.mark


class Applier:
    """Applies children and remembers what it did."""

    def __init__(self, client: KubeClient, cache: ObjectCache):
        self._client = client
        self._cache = cache
        self._strangers = Strangers(client)
        self._memory: dict[tuple[Resource, str, str], _Memory] = {}

    async def compare(self, wanted: Object, live: Object | None) -> Change | None:
        """Find out whether a child must be written.

        Args:
            wanted: what we want to own of it.
            live: the child as it is, if it exists; it is ours (see `find`).
        """
        metadata = wanted["metadata"]
        mark = digest(wanted)
        annotations = metadata.get("annotations", {}) | {APPLIED_ANNOTATION: mark}
        marked = wanted | {"metadata": metadata | {"annotations": annotations}}
        if live is not None and await self._is_as_wanted(marked, mark, live):
            APPLIES.labels(wanted["kind"], "skipped").inc()
            return None
        return Change(marked, mark, live)

    async def rehearse(self, change: Change) -> None:
        """Let the API server judge a change without doing it.

        Raises:
            PodSecurityError: it warns that the namespace's pod security forbids the pods. Of a
                Deployment it only warns; its pods would never be made.
            KubeError: as `write` would.
        """
        warnings: list[str] = []
        await self._client.apply(
            change.resource, change.wanted, manager=MANAGER, dry_run=True, warnings=warnings
        )
        if findings := [text for text in warnings if POD_SECURITY_FINDING in text]:
            raise PodSecurityError(403, "PodSecurity", "; ".join(findings))

    async def write(self, change: Change) -> Object:
        """Do a change; returns the child as it is now."""
        resource, live = change.resource, change.live
        if live is not None and change.is_drift:
            await self._remove_renamed(resource, change.wanted, live)
        answer = await self._client.apply(resource, change.wanted, manager=MANAGER)
        self._remember(change.wanted, change.mark, answer)
        self._cache.absorb(None, answer)
        APPLIES.labels(resource.kind, "applied").inc()
        name = change.wanted["metadata"]["name"]
        log.info("%s %s", "changed" if live else "created", resource.kind, extra={"child": name})
        return answer

    async def create_scaled_to_zero(self, change: Change) -> Object:
        """Make a Deployment that never has a pod.

        Left out, `replicas` would be 1 for a moment: a pod that takes a GPU and is killed. So the
        main manager creates with 0; the replicas' manager must join in owning that (`own_replicas`)
        before the main one lets go of it by `write`. Without our mark, a pass that is cut off in
        between is taken up again.
        """
        wanted = change.wanted
        marks = wanted["metadata"]["annotations"]
        unmarked = {key: value for key, value in marks.items() if key != APPLIED_ANNOTATION}
        empty = wanted | {
            "metadata": wanted["metadata"] | {"annotations": unmarked},
            "spec": wanted["spec"] | {"replicas": 0},
        }
        return await self._client.apply(DEPLOYMENT, empty, manager=MANAGER)

    async def ensure_replicas(self, deployment: Object, replicas: int | None) -> bool:
        """Set a Deployment's count, if it is ours to say and another; tells whether it was."""
        if replicas is None or deployment["spec"].get("replicas") == replicas:
            return False
        await self.own_replicas(deployment, replicas)
        return True

    async def own_replicas(self, deployment: Object, replicas: int) -> None:
        """Apply a count, under the field manager that owns nothing else."""
        await self._own(deployment, {"replicas": replicas}, REPLICAS_MANAGER)
        name = deployment["metadata"]["name"]
        log.info("scaled", extra={"child": name, "replicas": replicas})

    async def mark_successor(self, deployment: Object, pod: str) -> None:
        """Make a Deployment replace a pod by another of the same template; `""` takes it back.

        Under a field manager of its own, as the template itself is applied byte for byte.
        """
        annotations = {SUCCESSOR_OF_ANNOTATION: pod} if pod else {}
        template = {"metadata": {"annotations": annotations}}
        await self._own(deployment, {"template": template}, SUCCESSOR_MANAGER)
        log.info("marked", extra={"child": deployment["metadata"]["name"], "successor_of": pod})

    async def _own(self, deployment: Object, spec: Object, manager: str) -> None:
        metadata = deployment["metadata"]
        wanted = {
            "apiVersion": DEPLOYMENT.api_version,
            "kind": DEPLOYMENT.kind,
            "metadata": {
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],  # applied to a Deployment that is gone, it would make one
            },
            "spec": spec,
        }
        answer = await self._client.apply(DEPLOYMENT, wanted, manager=manager)
        self._cache.absorb(None, answer)

    async def delete(self, obj: Object) -> None:
        """Delete a child that is no longer wanted."""
        with contextlib.suppress(NotFoundError):
            await self._client.delete(resource_of(obj), obj)
        self._cache.forget(obj)
        self._memory.pop(_entry(obj), None)
        log.info("deleted %s", obj["kind"], extra={"child": obj["metadata"]["name"]})

    def forget(self, key: Key) -> None:
        """Drop the memory of a deleted LLMDeployment's children."""
        for entry in [e for e in self._memory if e[1] == key.namespace]:
            if entry[2] == key.name or entry[2].startswith(f"{key.name}-"):
                del self._memory[entry]

    async def find(self, wanted: Object) -> Object | None:
        """Look for a child that the cache does not have: not made yet, or it lost our label.

        Raises:
            ResourceConflictError: the name is taken by an object that is not ours. Applying would
                silently adopt it.
            ConflictError: garbage collection has still to remove it.
        """
        resource, metadata = resource_of(wanted), wanted["metadata"]
        if not self._cache.has(resource, metadata["namespace"], metadata["name"]):
            strangers = await self._strangers.names(resource, metadata["namespace"])
            if strangers is not None and metadata["name"] not in strangers:
                return None
        try:
            found = await self._client.get(resource, metadata["namespace"], metadata["name"])
        except NotFoundError:
            return None
        reference = metadata["ownerReferences"][0]
        if controller_uid(found) == reference["uid"]:
            return found
        what = f"{resource.kind} {metadata['name']}"
        if parent_key(found) == (metadata["namespace"], reference["name"]):
            raise ConflictError(
                409, "Leftover", f"{what} of a deleted LLMDeployment with this name is still there"
            )
        raise ResourceConflictError(f"{what} exists and does not belong to this LLMDeployment")

    async def _remove_renamed(self, resource: Resource, wanted: Object, live: Object) -> None:
        """Undo an edit that changed the key of a list item of ours (a port's number, say).

        Applying would only add our item beside the changed one, which the server may refuse.
        """
        patch = restored_lists(live, wanted)
        if patch is None:
            return
        namespace, name = live["metadata"]["namespace"], live["metadata"]["name"]
        repaired = await self._client.merge(
            resource, namespace, name, patch, manager=REPAIR_MANAGER
        )
        # The patch made its manager an owner of our items, who would keep them when we let go.
        metadata = repaired["metadata"]
        others = [f for f in metadata["managedFields"] if f["manager"] != REPAIR_MANAGER]
        disown = {"managedFields": others, "resourceVersion": metadata["resourceVersion"]}
        await self._client.merge(
            resource, namespace, name, {"metadata": disown}, manager=REPAIR_MANAGER
        )

    async def _is_as_wanted(self, wanted: Object, mark: str, live: Object) -> bool:
        memory = self._memory.get(_entry(wanted))
        if memory is not None and memory.uid == live["metadata"]["uid"]:
            return memory.digest == mark and project(live, wanted) == memory.projection
        # Not written by this process. The same digest says that nothing was left out since.
        if _applied_digest(live) != mark:
            return False
        if restored_lists(live, wanted) is not None:
            return False
        if project(live, wanted) != wanted:
            answer = await self._client.apply(
                resource_of(wanted), wanted, manager=MANAGER, dry_run=True
            )
            if project(answer, wanted) != project(live, wanted):
                return False
        self._remember(wanted, mark, live)
        return True

    def _remember(self, wanted: Object, mark: str, answer: Object) -> None:
        memory = _Memory(answer["metadata"]["uid"], mark, project(answer, wanted))
        self._memory[_entry(wanted)] = memory


def _entry(obj: Object) -> tuple[Resource, str, str]:
    return resource_of(obj), obj["metadata"]["namespace"], obj["metadata"]["name"]


def _applied_digest(live: Object) -> str | None:
    digest_of_last: str | None = live["metadata"].get("annotations", {}).get(APPLIED_ANNOTATION)
    return digest_of_last
