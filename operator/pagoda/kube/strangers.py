"""Which names are taken by objects without our label, asked for many at a time.

Before a child is made, its name must be looked up: applying would silently take over an object of
somebody else. One GET per child would be a fifth of what a new LLMDeployment costs. All passes
that begin while one LIST is on its way share the next one instead; ours are left out of it, since
the watches tell of them.
"""

import asyncio

from pagoda.kube.client import KubeClient
from pagoda.kube.resources import NOT_CHILD_SELECTOR, Resource

# With more strangers than this in a namespace the LIST costs more than single GETs.
MOST = 100

_Place = tuple[Resource, str]


class Strangers:
    """Looks for objects without our label."""

    def __init__(self, client: KubeClient):
        self._client = client
        self._running: dict[_Place, asyncio.Task[frozenset[str] | None]] = {}
        self._waiting: dict[_Place, asyncio.Task[frozenset[str] | None]] = {}

    async def names(self, resource: Resource, namespace: str) -> frozenset[str] | None:
        """Give the names that were taken at some moment after this call.

        Returns:
            The names, or None where there are too many of them: ask for the one of interest.
        """
        place = resource, namespace
        if (listing := self._waiting.get(place)) is None:
            listing = asyncio.create_task(self._list(place))
            self._waiting[place] = listing
        # One pass that is cancelled must not take the others' answer away.
        return await asyncio.shield(listing)

    async def _list(self, place: _Place) -> frozenset[str] | None:
        # One that runs already may have been answered before the caller came.
        while (running := self._running.get(place)) is not None:
            await asyncio.wait({running})
        self._running[place] = self._waiting.pop(place)
        try:
            return await self._client.names(*place, selector=NOT_CHILD_SELECTOR, most=MOST)
        finally:
            del self._running[place]
