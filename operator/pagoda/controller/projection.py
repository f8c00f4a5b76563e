"""Does a live object still hold what we applied? Pure.

The server completes and rewrites what it is given (`1000m` becomes `1`), so the comparison is not
with what we sent but with what the server made of it: the parts of its answer at the paths we set.
"""

from collections.abc import Hashable, Sequence
from typing import Any

# Lists that server-side apply merges by key (their +listMapKey in the API's types). Items of others
# may stand between ours; lists that are not named here are atomic and compared whole.
MERGE_KEYS: dict[str, Sequence[str]] = {
    "ownerReferences": ("uid",),
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "ephemeralContainers": ("name",),
    "volumeDevices": ("devicePath",),
    "resourceClaims": ("name",),
    "claims": ("name",),
    "imagePullSecrets": ("name",),
    "schedulingGates": ("name",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "conditions": ("type",),
}
# Maps that server-side apply replaces whole (+structType=atomic): what others add is drift.
ATOMIC = frozenset(
    {
        "configMapKeyRef",
        "dataSource",
        "fieldRef",
        "fileKeyRef",
        "labelSelector",
        "nodePublishSecretRef",
        "nodeSelector",
        "requiredDuringSchedulingIgnoredDuringExecution",
        "resourceFieldRef",
        "secretKeyRef",
        "secretRef",
        "selector",
    }
)
PORT_KEYS = (("containerPort", "protocol"), ("port", "protocol"))
KEY_DEFAULTS = {"protocol": "TCP"}  # what the server fills in for a part of a key


def project(live: Any, wanted: Any, field: str = "") -> Any:
    """Take from `live` what stands at the paths of `wanted`.

    Args:
        live: a value of a live object.
        wanted: the value we apply at the same place.
        field: name of the field that holds the value; it tells how a list merges.

    Returns:
        A value of `wanted`'s shape with `live`'s content; None where there is nothing.
    """
    if field in ATOMIC:
        return live
    if isinstance(wanted, dict) and isinstance(live, dict):
        return {key: project(live.get(key), value, key) for key, value in wanted.items()}
    if isinstance(wanted, list) and isinstance(live, list):
        keys = _merge_keys(field, wanted)
        if keys is None:
            return live
        found = {_key(item, keys): item for item in live}
        return [project(found.get(_key(item, keys)), item) for item in wanted]
    return live


def restored_lists(live: Any, wanted: Any, field: str = "") -> Any:
    """Make the JSON merge patch that puts back lists in which an item of ours lost its key.

    Returns:
        The patch, or None when every item of ours is there.
    """
    if isinstance(wanted, dict) and isinstance(live, dict):
        parts = {key: restored_lists(live.get(key), value, key) for key, value in wanted.items()}
        return {key: part for key, part in parts.items() if part is not None} or None
    if isinstance(wanted, list) and isinstance(live, list):
        keys = _merge_keys(field, wanted)
        if keys is None:
            return None
        present = {_key(item, keys) for item in live}
        if any(_key(item, keys) not in present for item in wanted):
            return wanted
    return None


def _merge_keys(field: str, items: list[Any]) -> Sequence[str] | None:
    if field == "ports":
        return next((keys for keys in PORT_KEYS if items and keys[0] in items[0]), None)
    return MERGE_KEYS.get(field)


def _key(item: Any, keys: Sequence[str]) -> tuple[Any, ...] | None:
    """Give the key of an item; None when a user's text has made it a thing without one."""
    if not isinstance(item, dict):
        return None
    values = tuple(item.get(key, KEY_DEFAULTS.get(key)) for key in keys)
    return values if all(isinstance(value, Hashable) for value in values) else None
