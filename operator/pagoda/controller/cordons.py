"""Which nodes are cordoned: the announcement that what runs there is about to be evicted.

Only these nodes are watched and listed (field selector `spec.unschedulable=true`, which the API
server supports for nodes), so a fleet that is at rest costs nothing.
"""

from collections.abc import Iterable

from pagoda.render.objects import Object

CORDONED = "spec.unschedulable=true"


class Cordons:
    """Names of the cordoned nodes."""

    def __init__(self, *, visible: bool):
        """Begin with none.

        Args:
            visible: whether nodes may be read; an operator of single namespaces may not.
        """
        self.visible = visible
        self._names: set[str] = set()

    def __contains__(self, node: object) -> bool:
        return node in self._names

    def absorb(self, event_type: str | None, node: Object) -> set[str]:
        """Take in a watch event; one that leaves the selection is reported as DELETED.

        Returns:
            The name, if that is news.
        """
        name = node["metadata"]["name"]
        cordoned = event_type != "DELETED" and bool(node["spec"].get("unschedulable"))
        if cordoned == (name in self._names):
            return set()
        (self._names.add if cordoned else self._names.discard)(name)
        return {name}

    def replace(self, listed: Iterable[Object]) -> set[str]:
        """Take in a whole LIST; returns the names of nodes that this changed."""
        names = {node["metadata"]["name"] for node in listed}
        changed = names ^ self._names
        self._names = names
        return changed
