"""Helpers for tests against a real API server: objects, waiting, the audit log."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, TypeVar

from dev.cluster import Cluster
from tests.rest import Rest, rest

T = TypeVar("T")
Object = dict[str, Any]


def eventually(
    check: Callable[[], T], *, timeout: float = 20.0, what: str = "", every: float = 0.1
) -> T:
    """Wait until `check` returns something true without failing an assertion or missing a key."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            result, problem = check(), None
        except (AssertionError, KeyError, TypeError) as error:  # not there yet
            result, problem = None, error
        if problem is None and result:
            return result
        if time.monotonic() >= deadline:
            raise AssertionError(
                f"not within {timeout} s: {what or problem or result!r}"
            ) from problem
        time.sleep(every)


def remove_namespaces(cluster: Cluster, *names: str) -> None:
    """Delete namespaces and wait for their pods, which take room on the node.

    The namespaces themselves may stay for up to half of their pods' grace period longer: so long
    the namespace controller waits before it looks again.
    """
    cluster.kubectl("delete", "namespace", *names, "--wait=false")
    for name in names:
        eventually(lambda name=name: not Api(cluster, name).list("pods"), timeout=120, every=0.5)


class Api:
    """One namespace: what users do by kubectl, what tests look at over HTTP."""

    def __init__(self, cluster: Cluster, namespace: str):
        self.cluster = cluster
        self.namespace = namespace

    def kubectl(self, *args: str, input: str | None = None, check: bool = True) -> Any:
        return self.cluster.kubectl("-n", self.namespace, *args, input=input, check=check)

    def apply(self, obj: Object) -> None:
        self.kubectl("apply", "-f", "-", input=json.dumps(obj))

    def refused(self, obj: Object) -> str:
        """Apply an object that must be refused; the message."""
        done = self.kubectl("apply", "-f", "-", input=json.dumps(obj), check=False)
        assert done.returncode != 0, f"accepted: {obj}"
        return str(done.stderr)

    @property
    def rest(self) -> Rest:
        return rest(self.cluster)

    def get(self, kind: str, name: str) -> Object | None:
        return self.rest.get(kind, self.namespace, name)

    def list(self, kinds: str, selector: str = "") -> list[Object]:
        return [
            o for kind in kinds.split(",") for o in self.rest.list(kind, self.namespace, selector)
        ]

    def patch(self, kind: str, name: str, patch: Object, *, subresource: str = "") -> None:
        self.rest.merge(kind, self.namespace, name, patch, subresource)

    def delete(self, kind: str, name: str, *extra: str) -> None:
        self.kubectl("delete", kind, name, *extra)

    def condition(self, name: str, kind: str = "Ready") -> Object:
        """One condition of an LLMDeployment; fails an assertion while it is not there."""
        obj = self.get("llmd", name)
        assert obj is not None
        found = [c for c in obj.get("status", {}).get("conditions", ()) if c["type"] == kind]
        assert found, f"no condition {kind} yet"
        current = obj["metadata"]["generation"]
        assert found[0]["observedGeneration"] == current, "status is of an older generation"
        return dict(found[0])

    def wait_reason(self, name: str, reason: str, *, timeout: float = 20.0) -> Object:
        """Wait until Ready has the reason; the condition."""

        def reached() -> Object:
            condition = self.condition(name)
            assert condition["reason"] == reason, f"{condition['reason']}: {condition['message']}"
            return condition

        return eventually(reached, timeout=timeout)

    def set_pods_ready(self, name: str, ready: bool = True) -> int:
        """Play kubelet: report all pods of an LLMDeployment as ready (or not); how many."""
        pods = self.list("pods", f"serving.pagoda.dev/llmdeployment={name}")
        for pod in pods:
            condition = {"type": "Ready", "status": "True" if ready else "False"}
            current = pod["status"].get("conditions", [])
            if any(c["type"] == "Ready" and c["status"] == condition["status"] for c in current):
                continue
            status = {"phase": "Running", "conditions": [condition]}
            self.patch("pod", pod["metadata"]["name"], {"status": status}, subresource="status")
        return len(pods)

    def become_ready(self, name: str, *, timeout: float = 20.0) -> None:
        """Play kubelet until the LLMDeployment is Ready."""

        def ready() -> bool:
            self.set_pods_ready(name)
            return bool(self.condition(name)["reason"] == "Ready")

        eventually(ready, timeout=timeout, what=f"{name} Ready")


class Audit:
    """What operators wrote since a moment, from the API server's audit log."""

    def __init__(
        self,
        cluster: Cluster,
        user_prefix: str = "system:serviceaccount:",
        user_suffix: str = ":pagoda-operator",
        *,
        from_start: bool = False,
    ):
        """Begin at the end of the log, or at its start; only users of that name are counted."""
        self._cluster = cluster
        self._log = cluster.audit_log
        self._prefix = user_prefix
        self._suffix = user_suffix
        self._offset = 0 if from_start else self._log.stat().st_size
        if not from_start:
            self._await_log()
            self._offset = self._log.stat().st_size

    def writes(self, *, namespace: str | None = None, dry_runs: bool = False) -> list[str]:
        """`VERB RESOURCE[/SUBRESOURCE] NAME` of each write, leases aside; or of each dry run."""
        return [text for text, _ in self.timed_writes(namespace=namespace, dry_runs=dry_runs)]

    def timed_writes(
        self, *, namespace: str | None = None, dry_runs: bool = False
    ) -> list[tuple[str, float]]:
        """The same, each with the time at which it was done, in seconds since 1970."""
        self._await_log()
        found = []
        for entry in self._entries():
            ref = entry.get("objectRef", {})
            user = entry["user"].get("username", "")
            if not (user.startswith(self._prefix) and user.endswith(self._suffix)):
                continue
            if ("dryRun=All" in entry["requestURI"]) != dry_runs:
                continue
            if entry["verb"] in ("get", "list", "watch") or ref.get("resource") == "leases":
                continue
            if namespace and ref.get("namespace") != namespace:
                continue
            subresource = f"/{ref['subresource']}" if ref.get("subresource") else ""
            text = f"{entry['verb']} {ref['resource']}{subresource} {ref.get('name', '')}"
            found.append((text, datetime.fromisoformat(entry["stageTimestamp"]).timestamp()))
        return found

    def _await_log(self) -> None:
        """Wait for all that was answered until now: a line is written after its answer is sent."""
        marker = f"marker-{uuid.uuid4()}"
        rest(self._cluster).delete_nothing(marker)

        def written() -> bool:
            return any(e.get("objectRef", {}).get("name") == marker for e in self._entries())

        eventually(written, what="the audit log is written")

    def _entries(self) -> Iterator[Object]:
        with self._log.open() as lines:
            lines.seek(self._offset)
            for line in lines:
                if line.endswith("\n"):
                    yield json.loads(line)
