"""The API server over HTTP, under the names that kubectl takes: a poll must not cost a process."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from dev.cluster import Cluster, ClusterError

Object = dict[str, Any]
CORE = "/api/v1"


@dataclass(frozen=True)
class _Resource:
    """Where a kind is found."""

    root: str  # of its group and version
    plural: str
    kind: str
    api_version: str
    namespaced: bool

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        scope = f"/namespaces/{namespace}" if self.namespaced else ""
        parts = [self.root + scope, self.plural, name, subresource]
        return "/".join(part for part in parts if part)


class Rest:
    """A connection as administrator."""

    def __init__(self, cluster: Cluster):
        self._http = cluster.http()
        self._known: dict[str, _Resource] = {}

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Read one object; None if there is none of the name."""
        response = self._send("GET", self._find(kind).path(namespace, name))
        return None if response.status_code == 404 else _body(response)

    def list(self, kind: str, namespace: str, selector: str = "") -> list[Object]:
        """Read all objects of a kind."""
        resource = self._find(kind)
        params = {"labelSelector": selector} if selector else {}
        page = _body(self._send("GET", resource.path(namespace), params=params))
        head = {"apiVersion": resource.api_version, "kind": resource.kind}
        return [head | item for item in page["items"]]

    def merge(self, kind: str, namespace: str, name: str, patch: Object, subresource: str) -> None:
        """Send a merge patch, as kubectl would."""
        path = self._find(kind).path(namespace, name, subresource)
        headers = {"Content-Type": "application/merge-patch+json"}
        params = {"fieldManager": "kubectl-patch"}
        _body(self._send("PATCH", path, content=json.dumps(patch), headers=headers, params=params))

    def delete_nothing(self, name: str) -> None:
        """Send a write that changes nothing and that the audit log shows under this name."""
        self._send("DELETE", f"{CORE}/namespaces/default/configmaps/{name}")

    def _find(self, kind: str) -> _Resource:
        name = kind.lower()
        if name not in self._known:  # also a CRD that is new
            self._known = self._discover()
        try:
            return self._known[name]
        except KeyError:
            raise ClusterError(f'the server doesn\'t have a resource type "{kind}"') from None

    def _discover(self) -> dict[str, _Resource]:
        found: dict[str, _Resource] = {}
        groups = _body(self._send("GET", "/apis"))["groups"]
        for root in (CORE, *(f"/apis/{g['preferredVersion']['groupVersion']}" for g in groups)):
            listed = self._send("GET", root)
            if listed.status_code != 200:
                continue  # an aggregated API that is down
            group = root.removeprefix("/apis/").split("/")[0] if root != CORE else ""
            for entry in listed.json()["resources"]:
                if "/" in entry["name"]:
                    continue  # a subresource
                version = root.removeprefix("/apis/").removeprefix("/api/")
                resource = _Resource(
                    root, entry["name"], entry["kind"], version, entry["namespaced"]
                )
                names = (entry["name"], entry["singularName"], *entry.get("shortNames", ()))
                for name in (*names, entry["kind"].lower(), f"{entry['name']}.{group}"):
                    found.setdefault(name, resource)
        return found

    def _send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **kwargs)
        except httpx.TransportError as error:
            raise ClusterError(f"{method} {path}: {error}") from error


def _body(response: httpx.Response) -> Object:
    if response.is_error:
        raise ClusterError(f"{response.request.method} {response.request.url}: {response.text}")
    return dict(response.json())


_open: dict[tuple[Path, float], Rest] = {}


def rest(cluster: Cluster) -> Rest:
    """Connect once per cluster; one that was made anew under its name is another one."""
    path = cluster.kubeconfig
    made = path, path.stat().st_mtime
    if made not in _open:
        _open[made] = Rest(cluster)
    return _open[made]
