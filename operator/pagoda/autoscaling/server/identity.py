"""Who asks, as the API server tells when it stands in front of us. Pure.

The rules are those of the API server's own front proxy authentication
(k8s.io/apiserver pkg/authentication/request/headerrequest).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import unquote

from multidict import MultiMapping

from pagoda.render.objects import Object

ANONYMOUS = "system:anonymous"
AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"


@dataclass(frozen=True)
class User:
    """Whoever sent a request."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def with_authenticated(self) -> "User":
        """Add the group that everybody is in who has proved an identity.

        The API server looks at us as a user without any group, and lets people through whom it
        did not authenticate.
        """
        present = {AUTHENTICATED, UNAUTHENTICATED} & set(self.groups)
        if self.name == ANONYMOUS or present:
            return self
        return replace(self, groups=(*self.groups, AUTHENTICATED))


@dataclass(frozen=True)
class FrontProxy:
    """Whose word about a user counts, and in which headers it stands."""

    authority: str  # PEM; certificates of no other authority count
    allowed_names: frozenset[str]  # common names; empty: any
    username_headers: Sequence[str]
    uid_headers: Sequence[str]
    group_headers: Sequence[str]
    extra_prefixes: Sequence[str]

    @classmethod
    def from_config_map(cls, obj: Object) -> Self | None:
        """Read kube-system/extension-apiserver-authentication.

        Returns:
            None if the API server has no front proxy, so that nobody's headers count.

        Raises:
            ValueError: it cannot be understood.
        """
        data = obj.get("data") or {}
        authority = data.get("requestheader-client-ca-file", "")
        if not authority.strip():
            return None
        return cls(
            authority=authority,
            allowed_names=frozenset(_names(data, "requestheader-allowed-names")),
            username_headers=_names(data, "requestheader-username-headers"),
            uid_headers=_names(data, "requestheader-uid-headers"),
            group_headers=_names(data, "requestheader-group-headers"),
            extra_prefixes=_names(data, "requestheader-extra-headers-prefix"),
        )

    def trusts(self, common_name: str) -> bool:
        """Tell whether the holder of a certificate of our authority may speak for others."""
        return not self.allowed_names or common_name in self.allowed_names

    def user(self, headers: MultiMapping[str]) -> User | None:
        """Read the user from a trusted peer's headers; None if they name nobody."""
        name = _first(headers, self.username_headers)
        if not name:
            return None
        groups = [g for header in self.group_headers for g in headers.getall(header, ())]
        return User(
            name, _first(headers, self.uid_headers), tuple(groups), tuple(self._extra(headers))
        )

    def _extra(self, headers: MultiMapping[str]) -> list[tuple[str, tuple[str, ...]]]:
        found: dict[str, list[str]] = {}
        for header, value in headers.items():
            for prefix in self.extra_prefixes:
                if header.lower().startswith(prefix.lower()):
                    # Go writes header names with capitals and escapes what may not stand there.
                    key = unquote(header[len(prefix) :].lower())
                    found.setdefault(key, []).append(value)
        return [(key, tuple(values)) for key, values in sorted(found.items())]


def _names(data: dict[str, str], key: str) -> tuple[str, ...]:
    names = json.loads(data.get(key) or "[]")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{key} is not a list of names")
    return tuple(names)


def _first(headers: MultiMapping[str], names: Sequence[str]) -> str:
    values = (headers.get(name, "").strip() for name in names)
    return next((value for value in values if value), "")
