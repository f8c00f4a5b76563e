"""Kubernetes' strategic merge patch for pod templates.

The rules are those of `kubectl patch --type=strategic` (k8s.io/apimachinery, util/strategicpatch),
order of list items included; a test compares with it. Three differences are on purpose:

- `$patch: delete` removes a map; kubectl leaves an empty one, which for a probe or a security context
  is not the same as none.
- `$patch: replace` in a map that is not there yet puts it there; kubectl drops it silently.
- What kubectl lets pass, and the API server then misreads, is refused: directives in lists that are
  replaced as a whole, items without their key, unknown directives.
"""

from collections.abc import Hashable, Sequence
from typing import Any

# Lists of a pod template that merge by a key: x-kubernetes-patch-merge-key of the API server's
# OpenAPI. All other lists are replaced as a whole.
PATCH_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "volumes": "name",
    "resourceClaims": "name",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "schedulingGates": "name",
    "topologySpreadConstraints": "topologyKey",
}
DIRECTIVE = "$patch"
_ABSENT: Any = object()

Map = dict[str, Any]


class PatchError(ValueError):
    """A patch that cannot be used; the text begins with the path of the part that is wrong."""


def strategic_merge(original: Map, patch: Map, path: str = "") -> Map:
    """Merge `patch` into `original`; neither is changed.

    Args:
        original: a pod template, or a part of it.
        patch: what to change: null deletes, maps merge, lists merge by key or are replaced.
        path: where both stand, for errors.

    Raises:
        PatchError: the patch has a wrong shape or an unknown directive.
    """
    _check_directives(patch, path)
    merged = {} if patch.get(DIRECTIVE) == "replace" else dict(original)
    for key, value in patch.items():
        if key == DIRECTIVE:
            continue
        result = _merge_value(merged.get(key), value, key, f"{path}.{key}" if path else key)
        if result is _ABSENT:
            merged.pop(key, None)
        else:
            merged[key] = result
    return merged


def _merge_value(original: Any, patch: Any, field: str, path: str) -> Any:
    if patch is None:
        return _ABSENT
    if isinstance(original, dict) and not isinstance(patch, dict):
        raise PatchError(f"{path} must be a map")
    if isinstance(original, list) and not isinstance(patch, list):
        raise PatchError(f"{path} must be a list")
    if isinstance(patch, dict):
        if patch.get(DIRECTIVE) == "delete":
            return _ABSENT
        return strategic_merge(original if isinstance(original, dict) else {}, patch, path)
    if field in PATCH_MERGE_KEYS:
        if not isinstance(patch, list):
            raise PatchError(f"{path} must be a list")
        return _merge_list(original or [], patch, PATCH_MERGE_KEYS[field], path)
    return _plain(patch, path)


def _plain(value: Any, path: str) -> Any:
    """Take a value that merges with nothing: no directive may be in it."""
    if isinstance(value, dict):
        if directive := next((key for key in value if key.startswith("$")), None):
            raise PatchError(
                f"{path}: {directive} has no effect here, the list is replaced as a whole; leave it out"
            )
        return {k: _plain(v, f"{path}.{k}") for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    return value


def _merge_list(original: list[Map], patch: list[Any], key: str, path: str) -> list[Map]:
    """Merge by key: items of the same key merge, new ones are added, marked ones go."""
    removed, items, is_replaced = [], [], False
    for index, item in enumerate(patch):
        place = f"{path}[{index}]"
        if not isinstance(item, dict):
            raise PatchError(f"{place} must be a map")
        _check_directives(item, place)
        if item.get(DIRECTIVE) == "replace":
            if len(item) > 1:
                raise PatchError(
                    f"{place}: an item that is just {{$patch: replace}} replaces the whole list; "
                    "to replace one item, delete it by $patch: delete and add it anew"
                )
            is_replaced = True
            continue
        value = item.get(key)
        if value is None:
            raise PatchError(f"{place}.{key} is missing: items of this list are known by it")
        if not isinstance(value, Hashable):
            raise PatchError(f"{place}.{key} must be a plain value")
        if DIRECTIVE in item:
            removed.append(value)
        else:
            items.append((item, place))
    kept = [] if is_replaced else [item for item in original if item[key] not in removed]
    is_new = is_replaced or not original
    merged = list(kept)
    for item, place in items:
        found = next((i for i, m in enumerate(merged) if m[key] == item[key]), None)
        if found is None or is_new:  # a new list is taken as it is, also with two items of a key
            merged.append(strategic_merge({}, item, place))
        else:
            merged[found] = strategic_merge(merged[found], item, place)
    return _ordered(merged, [item[key] for item in kept], [item[key] for item, _ in items], key)


def _ordered(
    merged: list[Map], before: Sequence[Any], patched: Sequence[Any], key: str
) -> list[Map]:
    """Order as kubectl does: items of the patch in its order, the others where they stood before."""
    left = [item for item in merged if item[key] not in patched]
    right = sorted(
        (item for item in merged if item[key] in patched), key=lambda item: patched.index(item[key])
    )
    result: list[Map] = []
    while left and right:
        first, other = left[0][key], right[0][key]
        comes_first = other in before and before.index(first) < before.index(other)
        result.append((left if comes_first else right).pop(0))
    return result + left + right


def _check_directives(part: Map, path: str) -> None:
    for key, value in part.items():
        if key == DIRECTIVE and value not in ("delete", "replace"):
            raise PatchError(f"{path}.$patch must be delete or replace, not {value!r}")
        if key.startswith("$") and key != DIRECTIVE:
            raise PatchError(
                f"{path}.{key} is not supported; use $patch: delete, $patch: replace, or null"
            )
