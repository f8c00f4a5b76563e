"""Label selectors as they stand in a URL. Pure.

The grammar is apimachinery's (pkg/labels): `a=b`, `a==b`, `a!=b`, `a`, `!a`, `a in (b, c)`,
`a notin (b, c)`, joined by commas; `a!=b` and `notin` also fit what has no such label.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Labels = Mapping[str, str]
Fits = Callable[[Labels], bool]


@dataclass(frozen=True)
class Selector:
    """What a selector asks for."""

    tests: tuple[Fits, ...]
    exact: Mapping[str, str]
    """Labels that must have one value: for a look-up before the test."""

    def fits(self, labels: Labels) -> bool:
        """Tell whether an object with these labels is meant."""
        return all(test(labels) for test in self.tests)


_KEY = r"[A-Za-z0-9](?:[-A-Za-z0-9_./]*[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_ONE = re.compile(
    rf"\s*(?:"
    rf"!\s*(?P<absent>{_KEY})"
    rf"|(?P<of>{_KEY})\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\)"
    rf"|(?P<key>{_KEY})\s*(?P<operator>==|=|!=)\s*(?P<value>{_VALUE})"
    rf"|(?P<present>{_KEY})"
    rf")\s*(?:,|$)"
)
_PART = re.compile(_VALUE)


def parse(text: str) -> Selector:
    """Read a selector; an empty one fits everything.

    Raises:
        ValueError: it is no selector.
    """
    tests: list[Fits] = []
    exact: dict[str, str] = {}
    place = 0
    while place < len(text):
        match = _ONE.match(text, place)
        if match is None:
            raise ValueError(f"{text!r} is no label selector")
        tests.append(_test(match))
        if match["operator"] in ("=", "=="):
            exact[match["key"]] = match["value"]
        place = match.end()
    if text.rstrip().endswith(","):
        raise ValueError(f"{text!r} is no label selector")
    return Selector(tuple(tests), exact)


def _test(match: re.Match[str]) -> Fits:
    if key := match["absent"]:
        return lambda labels: key not in labels
    if key := match["present"]:
        return lambda labels: key in labels
    if key := match["key"]:
        wanted, equal = match["value"], match["operator"] != "!="
        return lambda labels: (labels.get(key) == wanted) == equal
    key, inside = match["of"], match["set"] == "in"
    values = {value.strip() for value in match["values"].split(",")}
    if not all(_PART.fullmatch(value) for value in values):
        raise ValueError(f"{match['values']!r} are no label values")
    return lambda labels: (labels.get(key) in values) == inside
