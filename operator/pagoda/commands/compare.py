"""What a changed LLMDeployment would change: both sides as plain objects. Pure.

Server defaults and what others set must not show as differences. So the live side is cut down to the
fields that we set, and the pod template is taken from the ControllerRevision, which keeps it as it
was applied.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pagoda.api import KIND
from pagoda.controller.projection import MERGE_KEYS, project
from pagoda.render.objects import REVISION_LABEL, SELECTOR_LABEL, Object
from pagoda.render.plan import Plan

Name = tuple[str, str]  # kind, name

# It keeps the pod template, which shows with the Deployment.
NOT_SHOWN = "ControllerRevision"


@dataclass(frozen=True)
class Live:
    """The children of one LLMDeployment as a cluster has them."""

    objects: Mapping[Name, Object]

    @property
    def uid(self) -> str:
        """The LLMDeployment's uid."""
        obj = next(iter(self.objects.values()))
        return str(_controller(obj)["uid"])

    @property
    def last_revision(self) -> int:
        """The highest number of the kept templates."""
        kept = (o for (kind, _), o in self.objects.items() if kind == NOT_SHOWN)
        return max((int(obj["revision"]) for obj in kept), default=0)

    def deployment(self) -> Object | None:
        """The Deployment, if it is among the objects."""
        return self.first("Deployment")

    def first(self, kind: str) -> Object | None:
        """The object of a kind of which there is at most one."""
        return next((o for (of, _), o in self.objects.items() if of == kind), None)

    def template(self, wanted: Object) -> Object | None:
        """The pod template in force, as it was applied; `wanted` cuts it down where that is lost."""
        if (deployment := self.deployment()) is None:
            return None
        running: Object = deployment["spec"]["template"]
        revision = _revision(running)
        for (kind, _), obj in self.objects.items():
            if kind == NOT_SHOWN and _revision(obj["data"]["template"]) == revision:
                template: Object = obj["data"]["template"]
                return template
        cut: Object = project(running, wanted)
        return cut


def live_children(objects: Sequence[Object], namespace: str, name: str) -> Live | None:
    """Pick one LLMDeployment's children out of a dump."""
    found = {}
    for obj in objects:
        metadata = obj["metadata"]
        if metadata.get("namespace", namespace) != namespace or obj.get("kind") in ("Pod", KIND):
            continue
        if metadata.get("labels", {}).get(SELECTOR_LABEL) == name and _controller(obj):
            found[str(obj["kind"]), str(metadata["name"])] = obj
    return Live(found) if found else None


def planned(plan: Plan) -> dict[Name, Object]:
    """List what is planned, with the count in the Deployment, where another manager puts it."""
    return {(obj["kind"], obj["metadata"]["name"]): with_count(obj, plan) for obj in plan.objects}


def with_count(obj: Object, plan: Plan) -> Object:
    """Put a fixed count into the Deployment: the operator applies it by itself."""
    if obj["kind"] != "Deployment" or plan.replicas is None:
        return obj
    return obj | {"spec": {"replicas": plan.replicas} | obj["spec"]}


def as_is(live: Live, wanted: Mapping[Name, Object]) -> dict[Name, Object]:
    """Cut live objects down to what we set of them."""
    found: dict[Name, Object] = {}
    for name, obj in live.objects.items():
        if name not in wanted:
            head = {key: obj["metadata"][key] for key in ("name", "namespace")}
            found[name] = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": head}
            continue
        cut = _without_none(project(obj, wanted[name]))
        if name[0] == "Deployment":
            cut["spec"] |= {"template": live.template(wanted[name]["spec"]["template"])}
        found[name] = cut
    return found


def changed_paths(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Name the fields in which two pod templates differ, the revision's label aside."""
    if before == after or path.endswith(REVISION_LABEL):
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            yield from changed_paths(before.get(key), after.get(key), f"{path}.{key}".lstrip("."))
        return
    field = path.rpartition(".")[2]
    if isinstance(before, list) and isinstance(after, list) and MERGE_KEYS.get(field) == ("name",):
        old, new = ({item["name"]: item for item in side} for side in (before, after))
        if list(old) == list(new):
            for name in old:
                yield from changed_paths(old[name], new[name], f"{path}[{name}]")
        else:
            gone = [f"{path}[{name}]" for name in {**old, **new} if old.get(name) != new.get(name)]
            yield from gone or [f"{path} (order)"]
        return
    yield path


def _controller(obj: Object) -> Object:
    references = obj["metadata"].get("ownerReferences", ())
    found = (r for r in references if r.get("controller") and r.get("kind") == KIND)
    return next(found, {})


def _revision(template: Object) -> str | None:
    label: str | None = template["metadata"].get("labels", {}).get(REVISION_LABEL)
    return label


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value if item is not None]
    return value
