"""Autoscaling as it is rendered and reported."""

from typing import Any

import pytest
from pagoda.api.autoscaling import Capacity
from pagoda.api.status import LLMDeploymentStatus
from pagoda.controller.scaling import NO_SIGNALS, Scaling, Signals, learned_target, observe_scaling
from pagoda.render.autoscaler import NO_SCALING_FACTS, ScalingFacts

from tests.builders import live, only, plan

CAPACITY = Capacity(tokens_per_second=1000, revision="abc", changed_at=0)
NO_STATUS = LLMDeploymentStatus()
NOW = "2026-01-01T00:00:00Z"


def scaled(facts: ScalingFacts = NO_SCALING_FACTS, **fields: Any):
    return plan(autoscaling={"maxReplicas": 8} | fields, scaling=facts)


def hpa(made, *conditions: tuple[str, str, str]):
    found = [
        {"type": kind, "status": status, "reason": reason, "message": f"words of {reason}"}
        for kind, status, reason in conditions
    ]
    return live(only(made, "HorizontalPodAutoscaler"), status={"conditions": found})


def observed(
    made,
    autoscaler=None,
    signals: Signals = NO_SIGNALS,
    *,
    before: LLMDeploymentStatus = NO_STATUS,
    desired: int = 1,
) -> Scaling:
    result = observe_scaling(made, autoscaler, signals, before, desired, NOW)
    assert result is not None
    return result


def metrics(made) -> dict[str, str]:
    found = {}
    for metric in only(made, "HorizontalPodAutoscaler")["spec"]["metrics"]:
        part = metric[metric["type"].lower()]
        found[part["metric"]["name"]] = part["target"]["averageValue"]
    return found


def test_given_target_scales_on_demand_from_the_start():
    made = scaled(targetTokensPerSecond=500)
    assert metrics(made) == {
        "demand_tokens_per_second": "500",
        "backlog_seconds": "30",
        "kv_cache_usage": "800m",
    }
    assert observed(made).status.source == "Given"


def test_unknown_capacity_scales_on_what_waits():
    made = scaled()
    assert metrics(made) == {"requests_waiting": "4", "kv_cache_usage": "800m"}
    active = observed(made, hpa(made, ("ScalingActive", "True", "ValidMetricFound"))).active
    assert active[:2] == ("True", "CapacityUnknown")
    assert "spec.autoscaling.targetTokensPerSecond" in active[2]


def test_measured_capacity_gives_the_target():
    measured = Signals("Serving", capacity=CAPACITY)
    target = learned_target(measured)
    assert target == 700
    assert observed(scaled(), signals=measured).status.capacity == CAPACITY
    made = scaled(ScalingFacts(learned_target=target))
    assert metrics(made)["demand_tokens_per_second"] == "700"
    assert observed(made).status.source == "Learned"
    # A given one wins.
    both = scaled(ScalingFacts(learned_target=target), targetTokensPerSecond=500)
    assert metrics(both)["demand_tokens_per_second"] == "500"


def test_tolerance_only_where_the_server_knows_it():
    def behavior(made):
        return only(made, "HorizontalPodAutoscaler")["spec"]["behavior"]

    assert "tolerance" not in behavior(scaled())["scaleUp"]
    new = behavior(scaled(ScalingFacts(has_tolerance=True)))
    assert new["scaleUp"]["tolerance"] == new["scaleDown"]["tolerance"] == "0"


def test_users_behavior_wins_per_field():
    made = scaled(behavior={"scaleDown": {"stabilizationWindowSeconds": 5}})
    behavior = only(made, "HorizontalPodAutoscaler")["spec"]["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == 5
    assert behavior["scaleDown"]["policies"] == [
        {"type": "Percent", "value": 10, "periodSeconds": 60},
        {"type": "Pods", "value": 1, "periodSeconds": 60},
    ]
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0


def test_autoscaling_restarts_no_pod():
    assert (
        plan().choice.revision == scaled().choice.revision == scaled(mode="Shadow").choice.revision
    )


def test_shadow_scales_nothing_and_says_what_it_would_do():
    made = scaled(mode="Shadow", targetTokensPerSecond=100)
    assert all(obj["kind"] != "HorizontalPodAutoscaler" for obj in made.objects)
    asked = Signals("Serving", values={"demand_tokens_per_second": 350.0, "backlog_seconds": 0.0})
    first = observed(made, signals=asked, desired=1)
    assert first.active[:2] == ("False", "Shadow")
    assert first.status.desired_replicas == 4
    more = Signals("Serving", values={"demand_tokens_per_second": 2000.0})
    before = LLMDeploymentStatus(autoscaling=first.status, desired_replicas=1)
    second = observed(made, signals=more, before=before).status
    assert second.desired_replicas == 8
    (made_one,) = second.decisions or ()
    assert (made_one.from_replicas, made_one.to_replicas) == (4, 8)
    assert made_one.reason == (
        "2000 tokens/s of demand, 100 per replica; "
        "it would take 20, spec.autoscaling.maxReplicas allows 8"
    )
    # Not knowing asks for nothing.
    assert observed(made, signals=NO_SIGNALS, before=before).status.desired_replicas == 4


def test_last_five_decisions_are_kept_with_their_cause():
    made, status = scaled(targetTokensPerSecond=100), LLMDeploymentStatus(desired_replicas=1)
    for count in range(2, 9):
        signals = Signals("Serving", values={"demand_tokens_per_second": count * 100.0 - 5})
        result = observed(made, signals=signals, before=status, desired=count).status
        status = LLMDeploymentStatus(desired_replicas=count, autoscaling=result)
    decisions = status.autoscaling.decisions if status.autoscaling else None
    assert [(d.from_replicas, d.to_replicas) for d in decisions or ()] == [
        (7, 8),
        (6, 7),
        (5, 6),
        (4, 5),
        (3, 4),
    ]
    assert decisions is not None
    assert decisions[0].reason == "795 tokens/s of demand, 100 per replica"


def test_suspension_is_no_decision():
    made = plan(suspend=True, autoscaling={"maxReplicas": 8})
    before = LLMDeploymentStatus(desired_replicas=3)
    result = observed(made, before=before, desired=0)
    assert result.status.decisions is None
    assert result.active[:2] == ("False", "Suspended")


WORKS = ("ScalingActive", "True", "ValidMetricFound")
FAILS = ("ScalingActive", "False", "FailedGetObjectMetric")


@pytest.mark.parametrize(
    ("conditions", "source", "expected"),
    [
        ([], "Serving", ("Unknown", "Pending")),
        ([WORKS], "Serving", ("True", "FollowsDemand")),
        (
            [WORKS, ("ScalingLimited", "True", "TooManyReplicas")],
            "Serving",
            ("True", "AtMaxReplicas"),
        ),
        ([FAILS], "Missing", ("False", "MetricsAPIMissing")),
        ([FAILS], "Failing", ("False", "MetricsUnavailable")),
        ([FAILS], "Foreign", ("False", "MetricsAPIOwnedByOther")),
        ([("ScalingActive", "False", "ScalingDisabled")], "Serving", ("False", "ScaledToZero")),
        ([("AbleToScale", "False", "FailedGetScale")], "Serving", ("False", "FailedGetScale")),
    ],
)
def test_condition_names_the_cause(conditions, source, expected):
    made = scaled(targetTokensPerSecond=100)
    signals = Signals(source, detail="v1beta1.custom.metrics.k8s.io")
    active = observed(made, hpa(made, *conditions), signals).active
    assert active[:2] == expected
    if source == "Foreign":
        assert "v1beta1.custom.metrics.k8s.io" in active[2]


@pytest.mark.parametrize(("last", "start"), [(None, 2), (1, 2), (5, 5), (20, 8)])
def test_starts_within_the_bounds(last: int | None, start: int):
    assert scaled(minReplicas=2).start_count(last) == start


def test_turned_off_nothing_is_said_of_it():
    assert observe_scaling(plan(), None, NO_SIGNALS, LLMDeploymentStatus(), 1, NOW) is None
