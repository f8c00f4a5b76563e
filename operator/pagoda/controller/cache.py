"""What we know of the cluster: LLMDeployments, their children and pods.

Filled by watches, by LIST at the start and every few minutes after (kopf does not report objects
that vanish in a gap of a watch), and by the answers to our own writes.
"""

from collections.abc import Iterable

from pagoda.api import API_VERSION, KIND
from pagoda.controller.queue import Key
from pagoda.kube.resources import LLMDEPLOYMENT, POD, Resource, resource_of
from pagoda.render.objects import SELECTOR_LABEL, SUCCESSOR_OF_ANNOTATION, Object

REMEMBERED_DELETIONS = 5000

ObjectName = tuple[str, str]  # namespace, name


class ObjectCache:
    """Objects by resource and name, and an index from LLMDeployments to what belongs to them."""

    def __init__(self) -> None:
        self._gone: dict[str, int] = {}  # uid → version of the deletion, of the last few thousand
        self._objects: dict[Resource, dict[ObjectName, Object]] = {}
        self._by_parent: dict[Key, dict[tuple[Resource, str], Object]] = {}

    def absorb(self, event_type: str | None, obj: Object) -> bool:
        """Take in a watch event, a listed object (type None) or the answer to a write.

        Returns:
            Whether it told anything new. What is not newer than what we have is ignored: a watch
            event often arrives after the answer to the write that caused it.
        """
        resource = resource_of(obj)
        name = _name(obj)
        known = self._objects.get(resource, {}).get(name)
        if known is not None and not _is_news(obj, known, deleted=event_type == "DELETED"):
            return False
        if known is None and _version(obj) <= self._gone.get(obj["metadata"]["uid"], -1):
            return False  # a late answer or LIST about what has been deleted since
        if event_type == "DELETED":
            self._bury(obj)
            self._drop(resource, name)
            return True
        if known is not None:
            self._drop(resource, name)
        stored = _project_pod(obj) if resource == POD else _without_managed_fields(obj)
        self._objects.setdefault(resource, {})[name] = stored
        if (parent := parent_key(stored)) is not None:
            self._by_parent.setdefault(parent, {})[resource, name[1]] = stored
        return True

    def forget(self, obj: Object) -> None:
        """Drop an object that is known to be gone."""
        resource, name = resource_of(obj), _name(obj)
        known = self._objects.get(resource, {}).get(name)
        if known is not None and known["metadata"]["uid"] == obj["metadata"]["uid"]:
            self._drop(resource, name)

    def replace(
        self, resource: Resource, listed: Iterable[Object], namespace: str | None, before: int
    ) -> list[Object]:
        """Take in a whole LIST.

        Args:
            resource: what was listed.
            listed: all objects there are.
            namespace: the namespace listed, or None for all.
            before: the highest resourceVersion known when the LIST was asked for. Objects that
                appeared since are not dropped for being absent from it.

        Returns:
            The objects that this changed, the vanished ones included.
        """
        changed = []
        present = set()
        for obj in listed:
            present.add(_name(obj))
            if self.absorb(None, obj):
                changed.append(obj)
        for name, obj in list(self._objects.get(resource, {}).items()):
            if name not in present and (namespace is None or name[0] == namespace):
                if _version(obj) > before:
                    continue
                self._bury(obj)
                self._drop(resource, name)
                changed.append(obj)
        return changed

    def known_parent(self, obj: Object) -> Key | None:
        """Find whom the object of this name belonged to so far: its owner may just be removed."""
        known = self._objects.get(resource_of(obj), {}).get(_name(obj))
        return None if known is None else parent_key(known)

    def has(self, resource: Resource, namespace: str, name: str) -> bool:
        """Tell whether an object of this name with our label is known, whoever controls it."""
        return (namespace, name) in self._objects.get(resource, {})

    def newest(self, resource: Resource) -> int:
        """Give the highest resourceVersion known of a kind."""
        return max(map(_version, self._objects.get(resource, {}).values()), default=0)

    def parent(self, key: Key) -> Object | None:
        """Give the LLMDeployment."""
        return self._objects.get(LLMDEPLOYMENT, {}).get((key.namespace, key.name))

    def parents(self) -> list[Key]:
        """Give the names of all LLMDeployments."""
        return [Key(*name) for name in self._objects.get(LLMDEPLOYMENT, {})]

    def owned(self, key: Key, uid: str) -> dict[tuple[Resource, str], Object]:
        """Give the children that this very LLMDeployment controls, by resource and name."""
        return {
            entry: obj
            for entry, obj in self._by_parent.get(key, {}).items()
            if entry[0] != POD and controller_uid(obj) == uid
        }

    def pods(self, key: Key) -> list[Object]:
        """Give the pods behind the LLMDeployment, by our label."""
        return [obj for (kind, _), obj in self._by_parent.get(key, {}).items() if kind == POD]

    def on_node(self, node: str) -> set[Key]:
        """Give the LLMDeployments with pods on a node."""
        pods = self._objects.get(POD, {}).values()
        keys = (parent_key(pod) for pod in pods if pod["spec"].get("nodeName") == node)
        return {key for key in keys if key is not None}

    def _bury(self, obj: Object) -> None:
        self._gone.pop(obj["metadata"]["uid"], None)
        self._gone[obj["metadata"]["uid"]] = _version(obj)
        if len(self._gone) > REMEMBERED_DELETIONS:
            del self._gone[next(iter(self._gone))]

    def _drop(self, resource: Resource, name: ObjectName) -> None:
        obj = self._objects.get(resource, {}).pop(name, None)
        if obj is None or (parent := parent_key(obj)) is None:
            return
        siblings = self._by_parent.get(parent, {})
        siblings.pop((resource, name[1]), None)
        if not siblings:
            self._by_parent.pop(parent, None)


def parent_key(obj: Object) -> Key | None:
    """Find the LLMDeployment that an object belongs to: itself, its controller, or by our label."""
    metadata = obj["metadata"]
    if obj["kind"] == KIND:
        return Key(metadata["namespace"], metadata["name"])
    if obj["kind"] == POD.kind:
        name = metadata.get("labels", {}).get(SELECTOR_LABEL)
        return Key(metadata["namespace"], name) if name else None
    for reference in metadata.get("ownerReferences", ()):
        if (
            reference.get("controller")
            and reference["kind"] == KIND
            and reference["apiVersion"] == API_VERSION
        ):
            return Key(metadata["namespace"], reference["name"])
    return None


def controller_uid(obj: Object) -> str | None:
    """Give the UID of the object's controller."""
    for reference in obj["metadata"].get("ownerReferences", ()):
        if reference.get("controller"):
            return str(reference["uid"])
    return None


def _name(obj: Object) -> ObjectName:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]


def _version(obj: Object) -> int:
    """Read the resourceVersion, an integer that grows (apimachinery CompareResourceVersion)."""
    return int(obj["metadata"]["resourceVersion"])


def _is_news(obj: Object, known: Object, *, deleted: bool) -> bool:
    """Tell whether `obj` says more than `known`. The name may have been used again since."""
    if deleted:
        # An object leaving our label selector is reported with the version that we may have.
        same = obj["metadata"]["uid"] == known["metadata"]["uid"]
        return same and _version(obj) >= _version(known)
    return _version(obj) > _version(known)


def _without_managed_fields(obj: Object) -> Object:
    metadata = {k: v for k, v in obj["metadata"].items() if k != "managedFields"}
    return obj | {"metadata": metadata}


_POD_METADATA = {
    "name",
    "namespace",
    "uid",
    "labels",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
}
_POD_STATUS = {
    "phase",
    "conditions",
    "containerStatuses",
    "initContainerStatuses",
    "podIP",
    "reason",
    "message",
}


def _project_pod(pod: Object) -> Object:
    """Keep of a pod what status needs; a fleet has many and they change often."""
    metadata, status = pod["metadata"], pod.get("status", {})
    kept = {k: v for k, v in metadata.items() if k in _POD_METADATA}
    if mark := metadata.get("annotations", {}).get(SUCCESSOR_OF_ANNOTATION):
        kept["annotations"] = {SUCCESSOR_OF_ANNOTATION: mark}
    return {
        "apiVersion": pod["apiVersion"],
        "kind": pod["kind"],
        "metadata": kept,
        "spec": _project_pod_spec(pod.get("spec", {})),
        "status": {k: v for k, v in status.items() if k in _POD_STATUS},
    }


def _project_pod_spec(spec: Object) -> Object:
    """Keep where the pod stands, what it takes there, and what keeps it from getting there."""
    kept = {
        k: v for k, v in spec.items() if k in ("nodeName", "nodeSelector", "affinity", "overhead")
    }
    kept["volumes"] = [v for v in spec.get("volumes", ()) if "persistentVolumeClaim" in v]
    for kind in ("containers", "initContainers"):
        kept[kind] = [
            {k: v for k, v in container.items() if k in ("name", "restartPolicy", "resources")}
            for container in spec.get(kind, ())
        ]
    return kept
