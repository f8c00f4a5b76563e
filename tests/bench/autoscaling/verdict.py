"""Which policy wins where. Differences are paired by seed: every policy got the same requests."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from tests.bench.autoscaling.compare import POLICIES, Row

# What nobody would notice is no win, however often it is measured.
ATTAINMENT_MATTERS = 0.005
COST_MATTERS = 0.02
OURS = "demand, given"

Cell = tuple[str, float]  # scenario and start delay
Point = tuple[str, float]  # policy and setting


def default_of(policy: str) -> float:
    settings = POLICIES[policy][1]
    return settings[len(settings) // 2]


def by_cell(rows: Iterable[Row]) -> dict[Cell, dict[Point, list[Row]]]:
    cells: dict[Cell, dict[Point, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda r: r.seed):
        cells[row.scenario, row.delay][row.policy, row.setting].append(row)
    return cells


@dataclass(frozen=True)
class Difference:
    """Of one quantity between two points: how much better the first is, and the noise of that."""

    mean: float
    noise: float  # two standard errors, or what does not matter if that is more

    @property
    def is_better(self) -> bool:
        return self.mean > self.noise

    @property
    def is_worse(self) -> bool:
        return self.mean < -self.noise


def difference(better: Sequence[float], worse: Sequence[float], matters: float) -> Difference:
    pairs = [a - b for a, b in zip(better, worse, strict=True)]
    error = stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.inf
    return Difference(fmean(pairs), max(2 * error, matters))


def dominates(a: Sequence[Row], b: Sequence[Row]) -> bool:
    """Tell whether `a` is better than `b` in attainment or cost, and not worse in the other.

    Better and worse beyond noise and what matters, so a point that buys a little less than matters
    more attainment for a little less than matters more cost dominates.
    """
    slo = difference([r.attainment for r in a], [r.attainment for r in b], ATTAINMENT_MATTERS)
    scale = fmean(r.replica_seconds for r in b)
    cost = difference(
        [-r.replica_seconds / scale for r in a],
        [-r.replica_seconds / scale for r in b],
        COST_MATTERS,
    )
    return (slo.is_better or cost.is_better) and not (slo.is_worse or cost.is_worse)


@dataclass(frozen=True)
class Loss:
    """A point of another policy that dominates our default."""

    cell: Cell
    point: Point
    theirs: Sequence[Row]
    ours: Sequence[Row]


def losses(rows: Iterable[Row]) -> list[Loss]:
    found = []
    for cell, points in by_cell(rows).items():
        ours = points[OURS, default_of(OURS)]
        for point, theirs in points.items():
            if not point[0].startswith("demand") and dominates(theirs, ours):
                found.append(Loss(cell, point, theirs, ours))
    return found
