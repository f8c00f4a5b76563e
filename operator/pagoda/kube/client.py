"""The HTTP client: generic objects in and out, typed errors, a fence before every write.

The generated typed models are avoided on purpose: they cost half again as much CPU per call and
refuse fields of a newer API server.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable, MutableSequence, Sequence
from typing import Any, Self

import aiohttp
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import Configuration
from prometheus_client import Counter

from pagoda.kube.errors import SettingsError, TransientError, error_from_response
from pagoda.kube.resources import POD, Resource
from pagoda.kube.session import Session
from pagoda.render.objects import Object

REQUESTS = Counter(
    "rest_client_requests_total",
    "Requests to the API server by status code and method.",
    ["code", "method", "host"],
)
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
PAGE_SIZE = 500
WATCH_SECONDS = 290  # below the idle limits of common load balancers


class KubeClient:
    """Asynchronous access to the API server."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        timeout: float = 10.0,
        connections: int = 0,
        fence: Callable[[], None] = lambda: None,
    ):
        """Wrap a configuration.

        Args:
            configuration: where the API server is and who we are.
            timeout: seconds for one request.
            connections: at most so many at a time; 0: any number.
            fence: called before every write; raises FencedError when we may not write.
        """
        self._session = Session(configuration, connections=connections)
        self._timeout = timeout
        self.fence = fence
        self._version: tuple[int, int] | None = None

    @classmethod
    async def connect(cls, **kwargs: Any) -> Self:
        """Connect by KUBECONFIG where it is set, else by the pod's service account, else ~/.kube."""
        configuration = Configuration()
        try:
            if "KUBECONFIG" not in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
                kube_config.load_incluster_config(client_configuration=configuration)
            else:
                await kube_config.load_kube_config(client_configuration=configuration)
        except kube_config.ConfigException as error:
            raise SettingsError(
                f"no API server to talk to ({error}); set KUBECONFIG or run in a pod"
            ) from error
        return cls(configuration, **kwargs)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    @property
    def configuration(self) -> Configuration:
        """The connection settings, for kopf's login."""
        return self._session.configuration

    async def version(self) -> tuple[int, int]:
        """The API server's major and minor version, asked for once."""
        if self._version is None:
            answer = await self._call("GET", "/version")
            minor = re.match(r"\d+", answer["minor"])  # some providers append a "+"
            self._version = int(answer["major"]), int(minor.group()) if minor else 0
        return self._version

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """Read one object."""
        return await self._call("GET", resource.path(namespace, name))

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> list[Object]:
        """Read all objects of a kind, in pages."""
        pages = self.pages(resource, namespace, label_selector, field_selector)
        return [item async for page in pages for item in page]

    async def pages(
        self,
        resource: Resource,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[Sequence[Object]]:
        """Read all objects of a kind and give page by page, for what is too much to keep."""
        query = _selectors(label_selector, field_selector)
        async for page in self._pages(resource, namespace, query):
            yield page["items"]

    async def snapshot(
        self,
        resource: Resource,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> tuple[Sequence[Object], str]:
        """Read all objects of a kind, and the version of the whole from which to watch on."""
        query = _selectors(label_selector, field_selector)
        items: MutableSequence[Object] = []
        version = ""
        async for page in self._pages(resource, namespace, query):
            items += page["items"]
            version = page["metadata"]["resourceVersion"]
        return items, version

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        *,
        version: str,
        silence: float,
    ) -> AsyncIterator[tuple[str, Object]]:
        """Follow the changes since a version, bookmarks among them, until the server ends it.

        Args:
            resource: the kind.
            namespace: only of this one; None: of all.
            label_selector: only what fits it.
            field_selector: only what fits it.
            version: of a snapshot, or of the last event.
            silence: seconds after which a watch that says nothing counts as dead. The server
                sends a bookmark about every minute.

        Yields:
            ADDED, MODIFIED, DELETED or BOOKMARK, and the object.

        Raises:
            ExpiredError: the version is too old.
            KubeError: the watch could not be opened, or broke.
        """
        query = _selectors(label_selector, field_selector) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        host = self.configuration.host
        path = resource.path(namespace)
        try:
            async with self._session.stream(path, query, silence=silence) as answer:
                REQUESTS.labels(str(answer.status), "GET", host).inc()
                if answer.status != 200:
                    retry_after = answer.headers.get("Retry-After")
                    raise error_from_response(answer.status, await answer.read(), retry_after)
                rest = b""
                async for data in answer.content.iter_any():
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        yield _event(line)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise TransientError(0, "NoConnection", str(error) or "the watch is silent") from error

    async def _pages(
        self, resource: Resource, namespace: str | None, query: dict[str, str]
    ) -> AsyncIterator[Object]:
        query["limit"] = str(PAGE_SIZE)
        # The items of a list leave these two out.
        kind = {"apiVersion": resource.api_version, "kind": resource.kind}
        while True:
            page = await self._call("GET", resource.path(namespace), query)
            page["items"] = [kind | item for item in page["items"]]
            yield page
            token = page["metadata"].get("continue")
            if not token:
                return
            query["continue"] = token

    async def log(
        self, namespace: str, pod: str, container: str, *, previous: bool, lines: int, limit: int
    ) -> str:
        """Read the end of a container's log.

        Args:
            namespace: the pod's.
            pod: its name.
            container: one of its containers.
            previous: of the run before the present one.
            lines: at most so many, the last ones.
            limit: at most so many bytes of them, the first ones.
        """
        query = {"container": container, "tailLines": str(lines), "limitBytes": str(limit)}
        if previous:
            query["previous"] = "true"
        data = await self._send("GET", POD.path(namespace, pod, "log"), query, accept="*/*")
        return data.decode(errors="replace")

    async def names(
        self, resource: Resource, namespace: str, *, selector: str, most: int
    ) -> frozenset[str] | None:
        """Read the names of the objects that fit a label selector; None if there are too many."""
        query = {"limit": str(most), "labelSelector": selector}
        page = await self._call("GET", resource.path(namespace), query)
        if page["metadata"].get("continue"):
            return None
        return frozenset(item["metadata"]["name"] for item in page["items"])

    async def apply(
        self,
        resource: Resource,
        obj: Object,
        *,
        manager: str,
        subresource: str = "",
        dry_run: bool = False,
        warnings: MutableSequence[str] | None = None,
    ) -> Object:
        """Apply server-side with force: fields in `obj` become ours, others stay as they are.

        What the API server warns of is added to `warnings`.
        """
        metadata = obj["metadata"]
        query = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        else:
            self.fence()
        path = resource.path(metadata.get("namespace"), metadata["name"], subresource)
        return await self._call("PATCH", path, query, obj, APPLY, warnings)

    async def create(self, resource: Resource, obj: Object) -> Object:
        """Create an object by POST."""
        self.fence()
        return await self.create_unfenced(resource, obj)

    async def create_unfenced(self, resource: Resource, obj: Object) -> Object:
        """Create an object without holding the Lease: for the Lease itself."""
        return await self._call("POST", resource.path(obj["metadata"].get("namespace")), {}, obj)

    async def review(self, resource: Resource, spec: Object) -> Object:
        """Ask a question that the API server answers at once (TokenReview and its like).

        Returns:
            The answer's status.
        """
        question = {"apiVersion": resource.api_version, "kind": resource.kind, "spec": spec}
        answer = await self._call("POST", resource.path(None), {}, question)
        status: Object = answer["status"]
        return status

    async def replace(self, resource: Resource, obj: Object) -> Object:
        """Replace an object, guarded by its resourceVersion."""
        self.fence()
        return await self.replace_unfenced(resource, obj)

    async def replace_unfenced(self, resource: Resource, obj: Object) -> Object:
        """Replace an object, guarded by its resourceVersion: for the Lease itself."""
        metadata = obj["metadata"]
        path = resource.path(metadata["namespace"], metadata["name"])
        return await self._call("PUT", path, {}, obj)

    async def merge(
        self, resource: Resource, namespace: str | None, name: str, patch: Object, *, manager: str
    ) -> Object:
        """Change an object by a JSON merge patch."""
        self.fence()
        query = {"fieldManager": manager}
        return await self._call("PATCH", resource.path(namespace, name), query, patch, MERGE)

    async def delete(self, resource: Resource, obj: Object) -> None:
        """Delete just this object: another one of the same name, made since, is left alone."""
        self.fence()
        metadata = obj["metadata"]
        path = resource.path(metadata.get("namespace"), metadata["name"])
        options = {
            "propagationPolicy": "Background",
            "preconditions": {"uid": metadata["uid"]},
        }
        await self._call("DELETE", path, {}, options)

    async def _call(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        warnings: MutableSequence[str] | None = None,
    ) -> Object:
        data = await self._send(method, path, query, body, content_type, warnings=warnings)
        try:
            answer: Object = json.loads(data) if data else {}
        except ValueError as error:  # a proxy's page, or an answer cut off
            raise TransientError(200, "NotJSON", str(error)) from error
        return answer

    async def _send(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        *,
        accept: str = "application/json",
        warnings: MutableSequence[str] | None = None,
    ) -> bytes:
        host = self.configuration.host
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._session.request(
                    method, path, query or {}, data, content_type, accept
                )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            # TimeoutError says nothing by itself.
            cause = str(error) or f"no answer within {self._timeout:g} s"
            REQUESTS.labels("<error>", method, host).inc()
            raise TransientError(0, "NoConnection", cause) from error
        REQUESTS.labels(str(response.status), method, host).inc()
        if not 200 <= response.status < 300:
            retry_after = response.headers.get("Retry-After")
            raise error_from_response(response.status, response.data, retry_after)
        if warnings is not None:
            warnings.extend(map(warning_text, response.headers.getall("Warning", ())))
        return response.data


def _selectors(labels: str, fields: str) -> dict[str, str]:
    given = {"labelSelector": labels, "fieldSelector": fields}
    return {name: selector for name, selector in given.items() if selector}


def _event(line: bytes) -> tuple[str, Object]:
    """Read one line of a watch; an ERROR event is raised."""
    event = json.loads(line)
    kind, obj = event["type"], event["object"]
    if kind == "ERROR":
        raise error_from_response(int(obj.get("code", 500)), json.dumps(obj).encode(), None)
    return kind, obj


def warning_text(header: str) -> str:
    """Take the text out of a Warning header, `299 - "text"` with quotes escaped (RFC 7234, 5.5)."""
    text = header.partition('"')[2].rpartition('"')[0]
    return re.sub(r"\\(.)", r"\1", text)
