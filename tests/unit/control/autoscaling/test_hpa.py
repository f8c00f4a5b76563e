"""The bench's HPA, by cases worked out by hand from the controller's rules."""

import pytest

from tests.bench.autoscaling.hpa import (
    Behavior,
    Hpa,
    ObjectMetric,
    Pods,
    PodsMetric,
    Policy,
    Rules,
    Tolerance,
)


def pods(running: int, pending: int = 0) -> Pods:
    return Pods(
        frozenset(f"r{i}" for i in range(running)), frozenset(f"p{i}" for i in range(pending))
    )


def of_pods(target: float, *values: float) -> PodsMetric:
    return PodsMetric(target, lambda: {f"r{i}": v for i, v in enumerate(values)})


def of_object(target: float, value: float | None) -> ObjectMetric:
    return ObjectMetric(target, lambda: value)


def wanted(metric, spec: int, here: Pods, status: int | None = None, tolerance=None) -> int | None:
    status = here.count if status is None else status
    return metric.replicas(spec, status, here, tolerance or Tolerance())


@pytest.mark.parametrize(
    ("value", "status", "expected"),
    [
        (300, 3, 3),  # ratio 1
        (329, 3, 3),  # ratio 1.097, tolerated
        (331, 3, 4),  # ratio 1.103: ceil(331/100)
        (271, 3, 3),  # ratio 0.903, tolerated
        (269, 3, 3),  # not tolerated, and still ceil(2.69)
        (200, 3, 2),
        (0, 3, 0),
        (210, 2, 2),  # tolerated against 2 ...
        (210, 3, 3),  # ... and ceil(2.1) against 3, where a surge pod counts
    ],
)
def test_average_value_of_an_object_is_divided_by_the_target(value, status, expected):
    assert wanted(of_object(100, value), 3, pods(3), status) == expected


def test_within_tolerance_the_count_of_status_is_given_and_not_that_of_spec():
    # The ratchet of a roll-out: 4 pods stand for spec 3, and the value is what 4 can do.
    assert wanted(of_object(100, 400), 3, pods(4)) == 4


@pytest.mark.parametrize(
    ("values", "spec", "here", "expected"),
    [
        ((100, 100, 100), 3, pods(3), 3),
        ((200, 200, 200), 3, pods(3), 6),
        ((50, 50, 50, 50), 4, pods(4), 2),
        ((109, 109), 2, pods(2), 2),  # tolerated
        # 2 of 3 known. Rise: the third counts 0, so 400/3/100 = 1.33 of 3 pods is 4.
        ((200, 200), 3, pods(3), 4),
        # Fall: the third counts the target, so (20+20+100)/3 = 47 % of 3 pods is 2.
        ((20, 20), 3, pods(3), 2),
        # A rise that the unknown third turns round changes nothing: 120/2 = 60 %.
        ((120,), 2, pods(2), 2),
        # Pending pods count 0 in a rise: 300/3 = 100 %.
        ((300,), 3, pods(1, pending=2), 3),
        # They do not count in a fall: ceil(0.5 x 2).
        ((50, 50), 3, pods(2, pending=1), 1),
    ],
)
def test_pods_without_a_metric(values, spec, here, expected):
    assert wanted(of_pods(100, *values), spec, here) == expected


def test_no_value_is_an_error():
    assert wanted(of_object(100, None), 3, pods(3)) is None
    assert wanted(of_pods(100), 3, pods(3)) is None


def hpa(*metrics, **kw) -> Hpa:
    return Hpa(list(metrics), 1, 20, **kw)


def sync(it: Hpa, now: float, spec: int) -> int:
    return it.sync(now, spec, spec, pods(spec))


def test_the_largest_proposal_wins():
    assert sync(hpa(of_object(100, 200), of_object(1, 5), of_object(1, 3)), 0, 3) == 5


def test_an_error_forbids_a_fall_but_no_rise():
    assert sync(hpa(of_object(100, 100), of_object(1, None)), 0, 3) == 3
    assert sync(hpa(of_object(100, 500), of_object(1, None)), 0, 3) == 5
    assert sync(hpa(of_object(1, None)), 0, 3) == 3


def test_a_rise_is_limited_to_four_pods_or_twice_the_count_in_15_seconds():
    it = hpa(of_object(1, 100))
    assert sync(it, 0, 1) == 5
    assert sync(it, 5, 5) == 5  # began the period with 1
    assert sync(it, 15.1, 5) == 10
    assert sync(it, 30.2, 10) == 20


def test_a_fall_waits_for_the_highest_of_five_minutes():
    it = hpa(of_object(1, 2))
    assert sync(it, 0, 8) == 8  # the count it began with is the first recommendation
    assert sync(it, 299, 8) == 8
    assert sync(it, 301, 8) == 2


def test_policies_of_behavior():
    down = Rules((Policy("Pods", 1, 120),), 0)
    up = Rules((Policy("Percent", 50, 60), Policy("Pods", 3, 60)), 0, select="Min")
    it = hpa(of_object(1, 1), behavior=Behavior(up, down))
    assert sync(it, 0, 8) == 7
    assert sync(it, 60, 7) == 7
    assert sync(it, 121, 7) == 6
    it.metrics = [of_object(1, 20)]
    assert sync(it, 200, 6) == 9  # 50 % of 6 is 3
    it.behavior = Behavior(Rules(up.policies, 0, select="Disabled"), down)
    assert sync(it, 300, 9) == 9


def test_a_rise_waits_for_the_lowest_of_its_window():
    it = hpa(of_object(1, 3), behavior=Behavior(up=Rules((Policy("Percent", 900, 15),), 30)))
    assert sync(it, 0, 3) == 3
    it.metrics = [of_object(1, 9)]
    assert sync(it, 15, 3) == 3
    assert sync(it, 46, 3) == 9


def test_a_count_outside_the_bounds_is_brought_back_at_once():
    assert sync(hpa(of_object(1, 5)), 0, 30) == 20


def test_zero_replicas_is_off():
    assert hpa(of_object(1, 5)).sync(0, 0, 0, pods(0)) == 0
