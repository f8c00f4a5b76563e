"""How the only replica leaves a node that is about to be drained."""

import copy
import datetime

import pytest
from pagoda.api import conditions as reasons
from pagoda.controller.cause import Observation
from pagoda.controller.cordons import Cordons
from pagoda.controller.evacuation import NONE, Evacuation, decide
from pagoda.controller.status import observe
from pagoda.render.objects import SUCCESSOR_OF_ANNOTATION

from tests.builders import live_deployment, llmd, only, plan, pod

NOW = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
PATIENCE = 10.0
PLAN = plan(replicas=1)
REV = PLAN.choice.revision


def deployment(*, mark=None, complete=True, failure=None):
    reason = "NewReplicaSetAvailable" if complete else "ReplicaSetUpdated"
    conditions = [{"type": "Progressing", "status": "True", "reason": reason}]
    if failure:
        conditions.append({"type": "ReplicaFailure", "status": "True", "message": failure})
    obj = copy.deepcopy(live_deployment(PLAN, conditions=conditions))
    obj["status"] |= {"replicas": 1, "updatedReplicas": 1}
    if mark:
        obj["spec"]["template"]["metadata"]["annotations"] = {SUCCESSOR_OF_ANNOTATION: mark}
    return obj


def serving(name="one", *, node="n1", mark=None, revision=REV):
    obj = pod(name, revision=revision)
    obj["spec"]["nodeName"] = node
    if mark:
        obj["metadata"]["annotations"] = {SUCCESSOR_OF_ANNOTATION: mark}
    return obj


def pending(*, seconds=0.0):
    since = (NOW - datetime.timedelta(seconds=seconds)).isoformat()
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "message": "0/1 nodes are available: 1 node(s) were unschedulable.",
        "lastTransitionTime": since,
    }
    obj = pod("two", revision=REV, ready=False, conditions=[condition])
    obj["spec"] = {}
    return obj


def ask(live, *pods, cordoned=("n1",)):
    return decide(live, pods, set(cordoned), NOW, PATIENCE)


def test_nothing_is_done_where_nothing_is_cordoned():
    assert ask(deployment(), serving(), cordoned=["n2"]) == NONE


def test_pod_whose_node_is_not_known_leaves_none():
    obj = serving()
    del obj["spec"]["nodeName"]
    assert ask(deployment(), obj) == NONE


def test_cordon_marks_the_template_with_the_pod():
    found = ask(deployment(), serving())
    assert (found.mark, found.gives_way) == ("one", False)
    assert found.finding is not None
    assert found.finding.reason is reasons.LEAVING_NODE


def test_mark_is_written_once():
    found = ask(deployment(mark="one", complete=False), serving())
    assert (found.mark, found.gives_way, found.due) == (None, False, None)


def test_second_node_cordoned_moves_the_successor_too():
    assert ask(deployment(mark="one"), serving("two", mark="one")).mark == "two"


def test_edit_under_way_needs_no_mark():
    assert ask(deployment(complete=False), serving(revision="before")).mark is None


@pytest.mark.parametrize(("seconds", "gives_way"), [(0, False), (9.9, False), (10, True)])
def test_budget_gives_way_when_no_node_takes_the_successor(seconds, gives_way):
    found = ask(deployment(mark="one", complete=False), serving(), pending(seconds=seconds))
    assert found.gives_way == gives_way
    assert found.finding is not None
    if gives_way:
        assert "were unschedulable" in found.finding.explain()
        assert found.finding.reason is reasons.OUTAGE_AHEAD
    else:
        assert found.due == pytest.approx(10 - seconds)


def test_budget_gives_way_when_the_successor_may_not_be_made():
    found = ask(deployment(mark="one", complete=False, failure="exceeded quota"), serving())
    assert found.gives_way
    assert found.finding is not None
    assert "exceeded quota" in found.finding.explain()


def test_old_one_is_left_to_the_roll_out_once_the_successor_serves():
    live = deployment(mark="one", complete=False)
    assert ask(live, serving(), serving("two", node="n2", mark="one")) == NONE


@pytest.mark.parametrize("before", [None, "zero"])
def test_cordon_taken_back_restores_the_pod_s_own_template(before):
    live = deployment(mark="one", complete=False)
    found = ask(live, serving(mark=before), pending(seconds=60), cordoned=())
    assert found == Evacuation(mark=before or "")


def test_evicted_one_whose_like_got_the_room_needs_no_successor():
    live = deployment(mark="one", complete=False)
    assert ask(live, serving("three"), pending(seconds=60), cordoned=()) == Evacuation(mark="")


def test_cordon_taken_back_when_the_successor_serves_changes_nothing():
    live = deployment(mark="one", complete=False)
    assert ask(live, serving(), serving("two", mark="one"), cordoned=()) == NONE


def test_cordon_taken_back_after_an_edit_leaves_the_edit_alone():
    live = deployment(mark="one", complete=False)
    assert ask(live, serving(revision="before"), pending(), cordoned=()) == NONE


def test_pod_that_does_not_serve_may_go():
    assert ask(deployment(), pod(revision=REV, ready=False)) == NONE


def budget(*, holds_last=True, deployment=None, **fields):
    made = plan(deployment=deployment, holds_last=holds_last, **fields)
    return only(made, "PodDisruptionBudget")["spec"]


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, True),
        ({"replicas": 1}, True),
        ({"replicas": 0}, True),
        ({"suspend": True, "replicas": 3}, True),
        ({"replicas": 2}, False),
        ({"replicas": 1, "rollout": {"strategy": "Replace"}}, False),
        ({"replicas": 1, "holds_last": False}, False),
        ({"deployment": live_deployment(plan(), replicas=2)}, False),
    ],
)
def test_only_the_last_replica_is_kept(fields, kept):
    assert ("minAvailable" in budget(**fields)) == kept
    assert ("maxUnavailable" in budget(**fields)) != kept


def test_moving_replica_is_ready_in_the_status():
    finding = ask(deployment(), serving()).finding
    seen = Observation(
        parent=llmd(replicas=1),
        plan=PLAN,
        problem=None,
        deployment=deployment(mark="one", complete=False),
        pods=(serving(), pending()),
        has_service=True,
        moving=finding,
    )
    status = observe(seen, "2026-01-01T12:00:00Z")
    assert (status["ready"], status["state"], status["reason"]) == ("1/1", "Moving", "LeavingNode")
    ready = next(c for c in status["conditions"] if c["type"] == "Ready")
    assert ready["status"] == "True"
    assert "n1" in ready["message"]


def node(name, *, cordoned=True):
    return {"metadata": {"name": name}, "spec": {"unschedulable": True} if cordoned else {}}


def test_cordons_are_told_once():
    cordons = Cordons(visible=True)
    assert cordons.absorb("ADDED", node("a")) == {"a"}
    assert cordons.absorb("MODIFIED", node("a")) == set()
    assert "a" in cordons
    assert cordons.absorb("DELETED", node("a", cordoned=False)) == {"a"}
    assert "a" not in cordons
    assert cordons.replace([node("b"), node("c")]) == {"b", "c"}
    assert cordons.replace([node("c"), node("d")]) == {"b", "d"}
    assert cordons.absorb("MODIFIED", node("c", cordoned=False)) == {"c"}
