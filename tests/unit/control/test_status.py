"""Status: what is observed, and the reason it must end in."""

import pytest
from pagoda.api import conditions as reasons
from pagoda.api.conditions import REASONS
from pagoda.controller.cause import Observation
from pagoda.controller.diagnosis import Finding, shorten
from pagoda.controller.scaling import Signals
from pagoda.controller.status import observe, same_status

from tests.builders import crashed, live_deployment, llmd, plan, pod, waiting

NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"
PLAN = plan()
REV = PLAN.choice.revision


def status_of(pods=(), *, parent=None, deployment="live", problem=None, made=PLAN, now=NOW, **kw):
    live = live_deployment(made or PLAN, **kw) if deployment == "live" else deployment
    seen = Observation(parent or llmd(), made, problem, live, tuple(pods), live is not None)
    return observe(seen, now)


def condition(status, kind):
    (found,) = [c for c in status["conditions"] if c["type"] == kind]
    return found


def unscheduled(message):
    return pod(
        revision=REV,
        ready=False,
        conditions=[{"type": "PodScheduled", "status": "False", "message": message}],
    )


LOADING = pod(revision=REV, ready=False)
OLD = pod("toy-old", revision="old")
INVALID = Finding(reasons.INVALID_SPEC, {"detail": "x"})
DEADLINE = [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]
QUOTA = [
    {"type": "ReplicaFailure", "status": "True", "message": "pods is forbidden: exceeded quota: q"}
]
PSS = [{"type": "ReplicaFailure", "status": "True", "message": "violates PodSecurity"}]


@pytest.mark.parametrize(
    ("pods", "kwargs", "reason"),
    [
        ([], {"deployment": None}, reasons.STARTING),
        ([LOADING], {}, reasons.STARTING),
        ([pod(revision=REV)], {}, reasons.READY),
        ([pod(revision=REV), pod("toy-2", revision=REV)], {"replicas": 2}, reasons.READY),
        ([], {"replicas": 0}, reasons.SCALED_TO_ZERO),
        ([pod(revision=REV), OLD], {}, reasons.ROLLING_OUT),
        ([LOADING, OLD], {}, reasons.ROLLING_OUT),
        ([pod(revision=REV, leaving=True)], {}, reasons.STARTING),
        ([unscheduled("0/1 nodes: Insufficient cpu")], {}, reasons.UNSCHEDULABLE),
        ([unscheduled('persistentvolumeclaim "m" not found')], {}, reasons.VOLUME_NOT_FOUND),
        (
            [pod(revision=REV, ready=False, containerStatuses=waiting("ErrImagePull", "no such"))],
            {},
            reasons.IMAGE_PULL_FAILED,
        ),
        (
            [pod(revision=REV, ready=False, containerStatuses=waiting("CreateContainerConfigError"))],
            {},
            reasons.CONFIG_ERROR,
        ),
        (
            [pod(revision=REV, ready=False, containerStatuses=crashed(1, message="boom"))],
            {},
            reasons.ENGINE_CRASHED,
        ),
        (
            [pod(revision=REV, ready=False, containerStatuses=crashed(137, reason="OOMKilled"))],
            {},
            reasons.OUT_OF_MEMORY,
        ),
        ([], {"conditions": QUOTA}, reasons.QUOTA_EXCEEDED),
        ([], {"conditions": PSS}, reasons.POD_REJECTED),
        ([LOADING], {"conditions": DEADLINE}, reasons.PROGRESS_DEADLINE_EXCEEDED),
        ([unscheduled("Insufficient cpu")], {"conditions": DEADLINE}, reasons.UNSCHEDULABLE),
        ([OLD], {"problem": INVALID, "made": None}, reasons.INVALID_SPEC),
    ],
)  # fmt: skip
def test_reason(pods, kwargs, reason):
    status = status_of(pods, **kwargs)
    assert status["reason"] == reason.name
    assert condition(status, "Ready")["status"] == reason.ready
    assert condition(status, "Reconciling")["status"] == reason.reconciling
    assert condition(status, "Stalled")["status"] == reason.stalled
    assert status["state"] == reason.state


def test_all_conditions_are_there_from_the_first_pass():
    status = status_of(deployment=None)
    assert {c["type"] for c in status["conditions"]} == {
        "Ready",
        "Available",
        "Reconciling",
        "Stalled",
        "ModelReady",
        "WorkloadReady",
        "RoutesReady",
    }
    assert {c["observedGeneration"] for c in status["conditions"]} == {1}


def test_available_counts_any_revision():
    status = status_of([LOADING, OLD])
    assert condition(status, "Available")["status"] == "True"
    assert condition(status, "Ready")["status"] == "False"


def test_first_roll_out_needs_every_replica():
    assert status_of([pod(revision=REV)], replicas=2)["reason"] == "Starting"


COMPLETE = [{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}]


def test_what_was_rolled_out_once_is_ready_with_one_of_two():
    """Also after a moment in which none served; the roll-out has not to be repeated."""
    parent = llmd() | {"status": status_of([LOADING], replicas=2)}
    status = status_of([pod(revision=REV)], parent=parent, replicas=2, conditions=COMPLETE)
    assert (condition(status, "Ready")["status"], status["ready"]) == ("True", "1/2")
    other = plan(engine={"args": ["--seed=1"]})
    rolling = status_of([pod(revision=REV)], made=other, conditions=COMPLETE, replicas=2)
    assert condition(rolling, "Ready")["status"] == "False", "that was of another revision"


def test_degraded_workload_has_the_causes_reason():
    broken = pod("b", revision=REV, ready=False, containerStatuses=crashed(1, message="boom 1"))
    status = status_of([pod(revision=REV), broken], replicas=2, conditions=COMPLETE)
    assert status["reason"] == "ReplicasUnavailable"
    assert condition(status, "WorkloadReady")["reason"] == "EngineCrashed"
    again = pod("b", revision=REV, ready=False, containerStatuses=crashed(1, message="boom 2"))
    parent = llmd() | {"status": status}
    assert status == status_of(
        [pod(revision=REV), again], parent=parent, replicas=2, conditions=COMPLETE
    )


def test_what_ails_pods_of_an_older_revision_is_no_cause():
    old = pod("old", revision="old", ready=False, containerStatuses=crashed(1, message="boom"))
    assert status_of([LOADING, old])["reason"] == "RollingOut"


def test_change_of_count_does_not_flip_ready():
    parent = llmd() | {"status": status_of([pod(revision=REV)])}
    more = status_of([pod(revision=REV)], parent=parent, replicas=2, now=LATER)
    assert condition(more, "Ready")["status"] == "True"
    assert more["reason"] == "Scaling"
    assert more["ready"] == "1/2"
    assert condition(more, "Ready")["lastTransitionTime"] == NOW
    fewer = status_of([pod(revision=REV), pod("b", revision=REV)], parent=parent, replicas=1)
    assert fewer["reason"] == "Scaling"


def test_count_of_a_deployment_just_made_again_is_not_taken_for_a_wish():
    parent = llmd() | {"status": status_of([pod(revision=REV)], replicas=5)}
    assert status_of([], parent=parent, replicas=1)["desiredReplicas"] == 5


def test_earlier_crash_of_a_pod_that_runs_again_is_no_cause():
    state = crashed(137, reason="OOMKilled")
    state[0]["started"] = True
    status = status_of([pod(revision=REV, ready=False, containerStatuses=state)])
    assert status["reason"] == "Starting"


def test_broken_replica_degrades_but_serves():
    parent = llmd() | {"status": status_of([pod(revision=REV)])}
    broken = pod("b", revision=REV, ready=False, containerStatuses=crashed(1, message="boom"))
    status = status_of([pod(revision=REV), broken], parent=parent, replicas=2)
    assert (status["state"], condition(status, "Ready")["status"]) == ("Degraded", "True")
    assert "boom" in condition(status, "Ready")["message"]
    assert condition(status, "WorkloadReady")["status"] == "False"


def test_lost_last_replica_is_not_ready():
    parent = llmd() | {"status": status_of([pod(revision=REV)])}
    status = status_of([LOADING], parent=parent, now=LATER)
    assert condition(status, "Ready") | {} == condition(status, "Ready")
    assert condition(status, "Ready")["status"] == "False"
    assert condition(status, "Ready")["lastTransitionTime"] == LATER
    assert condition(status, "Available")["status"] == "False"


def test_invalid_spec_keeps_what_is_known_of_the_running_one():
    parent = llmd(generation=2) | {"status": status_of([pod(revision=REV)])}
    problem = Finding(reasons.INVALID_SPEC, {"detail": "bad"})
    status = status_of([pod(revision=REV)], parent=parent, problem=problem, made=None)
    assert status["url"] == "http://toy.default.svc/v1"
    assert status["ready"] == "1/1"
    assert condition(status, "Available")["status"] == "True"
    assert status["observedGeneration"] == 2


def test_overridden_args_are_reported():
    made = plan(engine={"args": ["--port=1"]})
    status = status_of([], made=made)
    assert "--port=1" in condition(status, "WorkloadReady")["message"]


def test_same_observation_same_status():
    first = status_of([pod(revision=REV)])
    second = status_of([pod(revision=REV)], parent=llmd() | {"status": first}, now=LATER)
    assert same_status(first, second)
    foreign = first | {
        "conditions": [*first["conditions"], {"type": "Their/Own", "status": "True"}]
    }
    assert same_status(foreign, second)
    assert not same_status(first | {"ready": "0/1"}, second)
    assert not same_status({}, second)


def test_every_reason_message_can_be_filled():
    details = dict.fromkeys(("ready", "desired", "detail", "image", "code", "often", "deadline"), 1)
    for reason in REASONS:
        assert "{" not in reason.explain(**details)
        assert not (reason.stalled == "True" and reason.reconciling == "True"), reason


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcdefgh12345",
        "token=hunter2hunter2",
        "using hf_abcdefghijklmnop",
        'api_key: "sk-abcdefghijkl"',
    ],
)
def test_secrets_do_not_reach_messages(text):
    assert "***" in shorten(text)
    for secret in ("abcdefgh", "hunter2"):
        assert secret not in shorten(text)


RUNS = [{"name": "engine", "started": True, "state": {"running": {"startedAt": "x"}}}]


@pytest.mark.parametrize(
    ("serving", "kwargs", "reason"),
    [
        (1, {}, reasons.READY),
        (0, {"replicas": 0}, reasons.SCALED_TO_ZERO),
        (0, {"made": plan(suspend=True), "deployment": live_deployment(PLAN)}, reasons.SUSPENDED),
    ],
)
def test_replicas_that_finish_their_requests_are_told(serving, kwargs, reason):
    staying = [pod(revision=REV)][:serving]
    draining = [
        pod(f"gone-{n}", revision=REV, leaving=True, containerStatuses=RUNS) for n in range(2)
    ]
    for count, words in ((0, ""), (1, "1 replica is finishing"), (2, "2 replicas are finishing")):
        status = status_of([*staying, *draining[:count]], **kwargs)
        assert status["reason"] == reason.name
        message = condition(status, "Ready")["message"]
        assert words in message
        assert ("finishing" in message) == bool(words)


def test_what_never_served_has_no_requests_to_finish():
    starting = RUNS[0] | {"started": False}
    gone = pod("gone", revision=REV, leaving=True, containerStatuses=[starting])
    message = condition(status_of([pod(revision=REV), gone]), "Ready")["message"]
    assert "finishing" not in message


REFUSING = Signals("Serving", served=7, overload=reasons.REQUESTS_REFUSED)


def overloaded(signals=REFUSING, *, parent=None, **spec):
    made = plan(**spec)
    live = live_deployment(made, replicas=2)
    pods = tuple(pod(name, revision=made.choice.revision) for name in ("toy-1", "toy-2"))
    seen = Observation(parent or llmd(**spec), made, None, live, pods, True, signals=signals)
    return observe(seen, NOW)


def test_too_much_to_do_is_told_beside_ready():
    status = overloaded(replicas=2)
    ready = condition(status, "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "RequestsRefused")
    assert ready["message"].startswith("2 of 2 replicas serve, but requests are refused (429)")
    assert (status["state"], status["ready"]) == ("Overloaded", "2/2")
    assert condition(status, "WorkloadReady")["status"] == "True"
    assert condition(status, "Stalled")["status"] == "False"
    waits = overloaded(Signals("Serving", overload=reasons.REQUESTS_WAITING), replicas=2)
    assert waits["reason"] == "RequestsWaiting"


def test_it_is_told_where_the_count_does_not_follow():
    assert overloaded(autoscaling={"maxReplicas": 3})["reason"] == "Ready"
    assert overloaded(autoscaling={"maxReplicas": 2})["reason"] == "RequestsRefused"
    shadow = {"maxReplicas": 3, "mode": "Shadow"}
    assert overloaded(autoscaling=shadow)["reason"] == "RequestsRefused"


def test_what_is_not_heard_of_any_more_is_not_told():
    parent = llmd(replicas=2)
    parent["status"] = overloaded(REFUSING)
    assert (parent["status"]["reason"], parent["status"]["tokensPerSecond"]) == (
        "RequestsRefused",
        7,
    )
    unheard = overloaded(Signals("Missing"), parent=parent, replicas=2)
    assert unheard["reason"] == "Ready"
    assert "tokensPerSecond" not in unheard
