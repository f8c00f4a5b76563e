"""Lists who holds the GPUs, on demand and at most every 30 s for all LLMDeployments together."""

import asyncio
from collections.abc import Sequence

from pagoda.controller.diagnosis import pod_condition
from pagoda.controller.diagnosis.gpus import GpuHolder, GpuNode, GpuSurvey
from pagoda.controller.diagnosis.scheduling import is_extended
from pagoda.kube.client import KubeClient
from pagoda.kube.errors import RejectedError
from pagoda.kube.resources import NODE, POD
from pagoda.render.objects import SELECTOR_LABEL, Object
from pagoda.render.quantity import parse_quantity

FRESH_SECONDS = 30.0
RUNNING = "status.phase!=Succeeded,status.phase!=Failed"


class Surveyor:
    """Keeps the last survey while it is fresh."""

    def __init__(self, client: KubeClient, namespaces: Sequence[str]):
        """Prepare.

        Args:
            client: access to the API server.
            namespaces: those watched; empty: the whole cluster.
        """
        self._client = client
        self._namespaces = namespaces
        self._lock = asyncio.Lock()
        self._last: GpuSurvey | None = None
        self._at = 0.0

    async def survey(self) -> GpuSurvey:
        """Give a survey that is at most 30 s old; nodes are None where we may not list them.

        Raises:
            KubeError: the API server refused or was not reached.
        """
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._last is None or now - self._at > FRESH_SECONDS:
                self._last = GpuSurvey(await self._nodes(), await self._holders())
                self._at = now
            return self._last

    async def _nodes(self) -> tuple[GpuNode, ...] | None:
        if self._namespaces:
            return None  # a Role cannot grant nodes
        found: list[GpuNode] = []
        try:
            async for page in self._client.pages(NODE):
                found += [node for node in map(_node, page) if node.allocatable]
        except RejectedError as error:
            if error.status == 403:
                return None
            raise
        return tuple(found)

    async def _holders(self) -> tuple[GpuHolder, ...]:
        found: list[GpuHolder] = []
        for namespace in self._namespaces or (None,):
            pages = self._client.pages(POD, namespace, field_selector=RUNNING)
            async for page in pages:
                found += [h for pod in page if (h := _holder(pod)) is not None]
        return tuple(found)


def _node(node: Object) -> GpuNode:
    metadata, status = node["metadata"], node.get("status", {})
    ready = pod_condition(node, "Ready") if status else None
    return GpuNode(
        name=metadata["name"],
        labels=metadata.get("labels", {}),
        allocatable=_extended(status.get("allocatable", {})),
        is_usable=not node["spec"].get("unschedulable")
        and ready is not None
        and ready["status"] == "True",
    )


def _holder(pod: Object) -> GpuHolder | None:
    metadata, spec = pod["metadata"], pod["spec"]
    if not spec.get("nodeName"):
        return None
    counts: dict[str, int] = {}
    for container in spec.get("containers", ()):
        limits = container.get("resources", {}).get("limits", {})
        for name, count in _extended(limits).items():
            counts[name] = counts.get(name, 0) + count
    if not counts:
        return None
    ours = metadata.get("labels", {}).get(SELECTOR_LABEL)
    return GpuHolder(
        metadata["namespace"], ours or metadata["name"], bool(ours), spec["nodeName"], counts
    )


def _extended(quantities: dict[str, str]) -> dict[str, int]:
    return {
        name: int(parse_quantity(quantity))
        for name, quantity in quantities.items()
        if is_extended(name) and quantity != "0"
    }
