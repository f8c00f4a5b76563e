"""When the bench says that one policy dominates another."""

import pytest

from tests.bench.autoscaling.compare import Row
from tests.bench.autoscaling.verdict import dominates


def rows(attainment: float, replicas: float, *, spread: float = 0.0) -> list[Row]:
    shift = [-spread, 0.0, spread, 0.0]
    return [
        Row("s", 5.0, "p", 1.0, seed, attainment + d, replicas * 1000, 0.0, 0)
        for seed, d in enumerate(shift)
    ]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (rows(0.99, 5.0), rows(0.95, 5.0), True),
        (rows(0.95, 4.0), rows(0.95, 5.0), True),
        (rows(0.99, 4.0), rows(0.95, 5.0), True),
        (rows(0.99, 6.0), rows(0.95, 5.0), False),  # it costs more
        (rows(0.953, 4.95), rows(0.95, 5.0), False),  # nobody would notice
        (rows(0.99, 5.05), rows(0.95, 5.0), True),  # nor that it costs more
        (rows(0.99, 5.0, spread=0.1), rows(0.95, 5.0), False),  # noise
        (rows(0.95, 5.0), rows(0.99, 5.0), False),
    ],
)
def test_domination(a, b, expected):
    assert dominates(a, b) is expected
