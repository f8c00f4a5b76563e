"""How far a download is. Pure: the clock is passed in."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from pagoda.fetch.plan import RemoteFile
from pagoda.fetch.report import State


class Progress:
    """Counts bytes on the disk and knows since when none was added."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        """Begin with nothing known.

        Args:
            clock: gives seconds.
        """
        self._clock = clock
        self._further_at = clock()
        self._sizes: dict[str, int] = {}
        self._bytes: dict[str, int] = {}
        self._furthest: dict[str, int] = {}
        self._activity: dict[str, State] = {}
        self._done: set[str] = set()
        self._detail = ""

    def plan(self, files: Iterable[RemoteFile]) -> None:
        """Note what there is to download."""
        self._sizes = {file.name: file.size for file in files}
        self._activity.clear()
        self._further_at = self._clock()

    def verifies(self, name: str) -> None:
        """Note that a file's bytes from an earlier run are read."""
        self._activity[name] = State.VERIFYING

    def waits(self, name: str, detail: str) -> None:
        """Note that a file waits to be tried again, and why."""
        self._activity[name] = State.RETRYING
        self._detail = detail

    def tries(self, name: str) -> None:
        """Note that a file is asked for."""
        self._activity[name] = State.DOWNLOADING

    def reached(self, name: str, offset: int) -> None:
        """Note how many good bytes of a file are on the disk."""
        self._bytes[name] = offset
        if offset > self._furthest.get(name, 0):
            self._furthest[name] = offset
            self._further_at = self._clock()

    def starts_over(self, name: str) -> None:
        """Note that a file's bytes were wrong, so that every byte counts anew."""
        self._bytes[name] = self._furthest[name] = 0
        self._further_at = self._clock()

    def finished(self, name: str) -> None:
        """Note that a file is whole."""
        self._activity.pop(name, None)
        self._done.add(name)

    def offset(self, name: str) -> int:
        """Give the bytes of one file."""
        return self._bytes.get(name, 0)

    def stalled_seconds(self) -> float:
        """Give the time since any file last got further than ever before."""
        return self._clock() - self._further_at

    @property
    def state(self) -> State:
        """Say what goes on; one file that moves outweighs others that wait."""
        if self._sizes and len(self._done) == len(self._sizes):
            return State.DONE
        activities = set(self._activity.values())
        for state in (State.DOWNLOADING, State.RETRYING, State.VERIFYING):
            if state in activities:
                return state
        return State.DOWNLOADING

    def document(self) -> dict[str, Any]:
        """Give what /progress serves."""
        state = self.state
        return {
            "state": state,
            "bytes": sum(self._bytes.values()),
            "total": sum(self._sizes.values()),
            "files_done": len(self._done),
            "files": len(self._sizes),
            "detail": self._detail if State.RETRYING in self._activity.values() else "",
        }
