"""Reads a few values from a page in Prometheus's text format. Pure.

A vLLM page has 70 KB and over a thousand lines, of which we want a dozen; parsing it whole takes
prometheus_client thirty times as long as everything else in a scrape. So the wanted names are
looked up by plain searches, which skip most of the page. The format helps: a name stands at the
start of a line, all series of a name follow each other, and a label's value has no raw newline.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

# Labels, in which a quoted value may hold anything, then the value; a timestamp may follow.
_REST = re.compile(rb'(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?[ \t]*([^ \t\n]+)')
_LABEL = re.compile(rb'([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"')
_AFTER_NAME = b"{ \t"


@dataclass(frozen=True)
class Series:
    """The series of one name, or those of them with certain labels."""

    name: bytes
    labels: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `name` or `name{label="value"}`."""
        name, _, labels = text.encode().partition(b"{")
        return cls(name, tuple(_LABEL.findall(labels)))

    def values(self, page: bytes) -> list[float]:
        """Find the values of all its series, in their order on the page.

        Raises:
            ValueError: one of them is no number.
        """
        found = []
        place = self._first(page)
        while place >= 0:
            match = _REST.match(page, place + len(self.name))
            if match is None:
                raise ValueError(f"no value follows {self.name.decode()}")
            if self._fits(match[1] or b""):
                found.append(float(match[2]))
            end = page.find(b"\n", match.end())
            place = end + 1 if end >= 0 and self._is_at(page, end + 1) else -1
        return found

    def is_declared_counter(self, page: bytes) -> bool:
        """Tell whether the page announces it as a counter, which without series stands at zero."""
        return b"\n# TYPE " + self.name + b" counter" in page

    def _first(self, page: bytes) -> int:
        if self._is_at(page, 0):
            return 0
        needle = b"\n" + self.name
        place = page.find(needle)
        while place >= 0 and not self._is_at(page, place + 1):
            place = page.find(needle, place + len(needle))  # a longer name begins like ours
        return place + 1 if place >= 0 else -1

    def _is_at(self, page: bytes, place: int) -> bool:
        end = place + len(self.name)
        return page.startswith(self.name, place) and page[end : end + 1] in _ENDS

    def _fits(self, labels: bytes) -> bool:
        return not self.labels or set(self.labels) <= set(_LABEL.findall(labels))


_ENDS = frozenset(bytes([byte]) for byte in _AFTER_NAME)


class Table:
    """Where an engine's page has what: per meaning its names, the newest first."""

    def __init__(self, metrics: Mapping[str, Sequence[str]], *, averaged: frozenset[str]):
        """Prepare the look-up.

        Args:
            metrics: meaning → series, as `EngineProfile.metrics` has them.
            averaged: meanings that are shares, of which several series (an engine with data
                parallel ranks has one each) make a mean; of all others they make a sum.
        """
        self._series = {m: tuple(map(Series.parse, names)) for m, names in metrics.items()}
        self._averaged = averaged

    def read(self, page: bytes) -> dict[str, float]:
        """Find what the page tells; a meaning that it does not tell is left out.

        Raises:
            ValueError: the page is broken.
        """
        found = {}
        for meaning, aliases in self._series.items():
            for series in aliases:
                if values := [v for v in series.values(page) if not math.isnan(v)]:
                    total = math.fsum(values)
                    mean = meaning in self._averaged
                    found[meaning] = total / len(values) if mean else total
                    break  # an older name beside the newer one tells the same again
            else:
                # A counter with labels has no series before its first event.
                if any(series.is_declared_counter(page) for series in aliases):
                    found[meaning] = 0.0
        return found
