"""What happened to the pods of a namespace: every change, with its time, by a watch."""

import itertools
import time
from dataclasses import dataclass
from typing import Self

from tests.kube import Api, eventually
from tests.watch import Watch

_LINE = (
    "{.type}|{.object.metadata.name}|{.object.metadata.deletionTimestamp}|{.object.spec.nodeName}"
    '|{.object.status.conditions[?(@.type=="Ready")].status}'
)


@dataclass(frozen=True)
class Moment:
    """The pods from one change to the next."""

    at: float
    serving: int  # ready, and not about to leave
    placed: int  # on a node, leaving ones included
    staying: int  # there, wherever and however, and not about to leave


class PodHistory(Watch):
    """Records from the moment when `serving` pods serve; to be used as a context."""

    def __init__(self, api: Api, serving: int):
        self._first = serving
        self._moments: list[Moment] = []
        self._pods: dict[str, tuple[bool, bool, bool]] = {}
        super().__init__(api, "pods", "--output-watch-events", line=_LINE)

    @property
    def moments(self) -> list[Moment]:
        return list(self._moments)

    @property
    def fewest(self) -> int:
        return min(moment.serving for moment in self.moments)

    @property
    def outage(self) -> float:
        """Seconds during which no pod served."""
        moments = self.moments
        gaps = itertools.pairwise(moments)
        return sum(later.at - earlier.at for earlier, later in gaps if not earlier.serving)

    def __enter__(self) -> Self:
        super().__enter__()
        eventually(lambda: self._moments, what=f"{self._first} pods serve")
        return self

    def _take(self, line: str) -> None:
        event, name, deleted, node, ready = line.split("|")
        self._pods[name] = (ready == "True" and not deleted, bool(node), not deleted)
        if event == "DELETED":
            del self._pods[name]
        serving, placed, staying = (
            sum(pod[index] for pod in self._pods.values()) for index in range(3)
        )
        if self._moments or serving >= self._first:
            self._moments.append(Moment(time.monotonic(), serving, placed, staying))
