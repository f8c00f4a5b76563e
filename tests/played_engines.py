"""Gives pods that kwok plays what it has not: an address, where an engine answers."""

from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType

from dev.cluster import ClusterError
from tests.kube import Api
from tests.loaded_fleet import Fleet
from tests.watch import Watch

_LABEL = r"serving\.pagoda\.dev/llmdeployment"
_LINE = (
    f"{{.type}}|{{.object.metadata.labels.{_LABEL}}}|{{.object.metadata.name}}"
    "|{.object.metadata.deletionTimestamp}|{.object.status.podIP}"
    '|{.object.status.conditions[?(@.type=="Ready")].status}'
)


class PlayedEngines(Watch):
    """Follows the pods of a namespace: each has an engine of its LLMDeployment's fleet, which gets
    requests from its readiness to its deletion. A context."""

    def __init__(self, api: Api, fleets: Mapping[str, Fleet]):
        """Prepare.

        Args:
            api: the namespace.
            fleets: by LLMDeployment; may grow, before its pods come.
        """
        self._api = api
        self._fleets = fleets
        self._known: set[str] = set()
        super().__init__(api, "pods", "--output-watch-events", line=_LINE)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        for fleet in self._fleets.values():
            fleet.close()

    def _take(self, line: str) -> None:
        event, deployment, pod, deleted, address, ready = line.split("|")
        fleet = self._fleets[deployment]
        if pod not in self._known and event != "DELETED":
            self._known.add(pod)
            self._address(pod, fleet.add(pod))
        if event == "DELETED":
            self._known.discard(pod)
            fleet.remove(pod)
        elif deleted:
            fleet.leave(pod)
        elif ready == "True" and address:
            fleet.serve(pod)

    def _address(self, pod: str, address: str) -> None:
        status = {"podIP": address, "podIPs": [{"ip": address}]}
        with suppress(ClusterError):  # a pod that is gone already needs none
            self._api.patch("pod", pod, {"status": status}, subresource="status")
