"""When a roll-out replaces in place, and what is said about it."""

import copy
import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pagoda.api import conditions as reasons
from pagoda.controller import rollout
from pagoda.controller.diagnosis import Finding
from pagoda.controller.room import NodeRoom, requested
from pagoda.controller.status import Observation, observe
from pagoda.render.deployment import REPLACE, SURGE, RollingUpdate
from pagoda.render.objects import SPEC_HASH_ANNOTATION

from tests.builders import live_deployment, llmd, plan, pod

PATIENCE = 10.0
NOW = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
FULL = (
    "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes are available."
)
GONE_AT = "2026-01-01T12:01:00Z"


def made(gpus: int = 4, **fields: Any):
    return plan(resources={"gpu": {"count": gpus}, "cpu": "1", "memory": "1Gi"}, **fields)


PLAN = made()
REV = PLAN.choice.revision
HASH = live_deployment(PLAN)["metadata"]["annotations"][SPEC_HASH_ANNOTATION]


def deployment(rolling: RollingUpdate = SURGE, *, complete=False, of=PLAN, revision="2", **kw):
    obj = copy.deepcopy(live_deployment(of, **kw))
    obj["spec"]["strategy"]["rollingUpdate"] = {
        "maxSurge": rolling.max_surge,
        "maxUnavailable": rolling.max_unavailable,
    }
    obj["metadata"]["annotations"][rollout.DEPLOYMENT_REVISION] = revision
    reason = "NewReplicaSetAvailable" if complete else "ReplicaSetUpdated"
    obj["status"]["conditions"] = [{"type": "Progressing", "status": "True", "reason": reason}]
    return obj


def pending(message=FULL, *, since="2026-01-01T11:59:00Z", revision=REV, **kw):
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "message": message,
        "lastTransitionTime": since,
    }
    obj = pod("new", revision=revision, ready=False, conditions=[condition], **kw)
    obj["spec"] = {}
    return obj


def old(name="old", *, gpus=4, node="n1", affinity=None, **kw):
    obj = pod(name, revision="before", **kw)
    requests = {"nvidia.com/gpu": str(gpus), "cpu": "1", "memory": "1Gi"}
    obj["spec"] = {"nodeName": node, "containers": [{"resources": {"requests": requests}}]}
    if affinity:
        obj["spec"]["affinity"] = affinity
    if obj["metadata"].get("deletionTimestamp"):
        obj["metadata"]["deletionTimestamp"] = GONE_AT
    return obj


def node(name="n1", *, gpus=8, holders=(), labels=None, **spec):
    room = {"nvidia.com/gpu": str(gpus), "cpu": "64", "memory": "512Gi", "pods": "110"}
    obj = {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": spec,
        "status": {"allocatable": room},
    }
    return NodeRoom.of(obj, holders)


def stuck(pods, live=None):
    return rollout.stuck(live or deployment(), pods, NOW, PATIENCE)


@pytest.mark.parametrize(
    ("strategy", "live", "expected"),
    [
        ("Surge", deployment(REPLACE), SURGE),
        ("Replace", None, REPLACE),
        ("Replace", deployment(complete=True), REPLACE),
        ("Auto", None, SURGE),
        ("Auto", deployment(complete=True), None),
        ("Auto", deployment(), None),
        ("Auto", deployment(REPLACE), REPLACE),
        ("Auto", deployment(REPLACE, complete=True), SURGE),
        ("Auto", deployment(of=made(gpus=2)), SURGE),  # a new template comes first
        ("Auto", deployment(REPLACE, of=made(gpus=2)), REPLACE),  # an edit in mid-roll-out
        ("Auto", deployment(REPLACE, complete=True, of=made(gpus=2)), SURGE),
    ],
)
def test_what_is_settled_without_the_pods(strategy, live, expected):
    assert rollout.settled(strategy, HASH, live) == expected


def test_roll_out_is_complete_only_when_the_controller_has_seen_it():
    unseen = deployment(REPLACE, complete=True)
    unseen["metadata"]["generation"] += 1
    assert rollout.settled("Auto", HASH, unseen) == REPLACE
    scaled_and_changed = deployment(REPLACE, complete=True)
    scaled_and_changed["status"] |= {"replicas": 2, "updatedReplicas": 0}
    assert rollout.settled("Auto", HASH, scaled_and_changed) == REPLACE


@pytest.mark.parametrize(
    ("message", "resources", "only_room"),
    [
        (FULL, {"nvidia.com/gpu"}, True),
        (
            "0/3 nodes are available: 1 Insufficient cpu, 2 Insufficient memory. no new claims to "
            "deallocate, preemption: 0/3 nodes are available: 3 No preemption victims found.",
            {"cpu", "memory"},
            True,
        ),
        ("0/1 nodes are available: 1 Too many pods.", {"pods"}, True),
        ("0/1 nodes are available: 1 Insufficient cpu", {"cpu"}, True),
        (
            "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.",
            {"pods"},
            True,
        ),
        (
            "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) were unschedulable.",
            {"nvidia.com/gpu"},
            False,
        ),
        (
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
            None,
            None,
        ),
        ("0/2 nodes are available: 2 node(s) had untolerated taint(s).", None, None),
        ('persistentvolumeclaim "models" not found', None, None),
        ("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.", None, None),
        ("no nodes available to schedule pods", None, None),
        (
            "0/1 nodes are available: 1 node(s) had untolerated taint(s). preemption: 0/1 nodes are "
            "available: 1 Insufficient cpu.",
            None,
            None,
        ),
    ],
)
def test_what_a_pod_lacks(message, resources, only_room):
    want = rollout.want_of(pending(message))
    if resources is None:
        assert want is None
    else:
        assert want == rollout.Want(frozenset(resources), only_room)


@pytest.mark.parametrize(
    ("pods", "waits"),
    [
        ([pending(), old()], True),
        ([pending()], False),  # nothing to replace
        ([old()], False),
        ([pending(revision="between"), old()], False),  # not of the newest edit
        ([pending("0/1 nodes are available: 1 node(s) were unschedulable."), old()], False),
        ([pending(leaving=True), old()], False),
        ([pending(), old("leaves", leaving=True), old()], False),  # its room comes free by itself
        ([pending(), pending(revision="between")], False),
        ([pod("ready", revision=REV), pending(), old()], True),
        ([pending(), old(ready=False)], True),  # a broken pod holds its GPUs too
    ],
)
def test_who_waits_for_room_of_old_pods(pods, waits):
    assert (stuck(pods) is not None) == waits


def test_pod_that_overruns_its_grace_period_is_not_waited_for():
    pods = [pending(), old("dead", leaving=True), old()]
    late = datetime.datetime.fromisoformat(GONE_AT) + datetime.timedelta(seconds=PATIENCE + 1)
    assert rollout.stuck(deployment(), pods, late, PATIENCE) is not None


def test_the_longest_wait_counts():
    found = stuck([pending(since="2026-01-01T11:58:00Z"), pending(), old()])
    assert found.since.minute == 58


HOLDER = old()
STRANGER = old("stranger")
TAINT = {"key": "special", "effect": "NoSchedule"}
GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
SPREAD = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}}


@pytest.mark.parametrize(
    ("wanted", "rooms", "helped"),
    [
        (4, [node(gpus=4, holders=[HOLDER])], True),
        (4, [node(gpus=8, holders=[HOLDER, STRANGER])], True),
        (8, [node(gpus=8, holders=[HOLDER])], True),  # grown into what is free
        (8, [node(gpus=8, holders=[HOLDER, STRANGER])], False),  # the rest is a stranger's
        (16, [node(gpus=8, holders=[HOLDER])], False),  # never
        (2, [node(gpus=4, holders=[HOLDER])], True),
        (4, [node(gpus=4, holders=[HOLDER], unschedulable=True)], False),
        (4, [node(gpus=4, holders=[HOLDER], taints=[TAINT])], False),
        (4, [node(gpus=4, holders=[HOLDER], taints=[GPU_TAINT])], True),
        (
            4,
            [node(gpus=4, holders=[HOLDER], taints=[TAINT | {"effect": "PreferNoSchedule"}])],
            True,
        ),
        (4, [], False),  # the node is gone
        (4, None, True),
        (2, None, True),
        (8, None, False),
    ],
)
def test_whether_stopping_the_old_pod_helps(wanted, rooms, helped):
    target = made(gpus=wanted)
    waiting_pod = pending(revision=target.choice.revision)
    found = stuck([waiting_pod, HOLDER], deployment(of=target))
    by_name = None if rooms is None else {room.node["metadata"]["name"]: room for room in rooms}
    assert found.is_helped(by_name) == helped


@pytest.mark.parametrize("label", ["NVIDIA-L4", "NVIDIA-H100"])
def test_node_must_suit_the_new_selector(label):
    target = plan(resources={"gpu": {"count": 4, "product": "NVIDIA-H100"}})
    found = stuck([pending(revision=target.choice.revision), HOLDER], deployment(of=target))
    room = node(gpus=4, holders=[HOLDER], labels={"nvidia.com/gpu.product": label})
    assert found.is_helped({"n1": room}) == (label == "NVIDIA-H100")


def test_changed_affinity_is_not_judged():
    found = stuck([pending(), old(affinity=SPREAD)])
    assert not found.is_helped({"n1": node(gpus=8)})


def test_unreadable_nodes_need_a_message_that_leaves_no_doubt():
    doubt = "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) were unschedulable."
    assert not stuck([pending(doubt), HOLDER]).is_helped(None)


@given(
    capacity=st.integers(0, 16),
    strangers=st.integers(0, 8),
    olds=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    wanted=st.integers(1, 16),
    cordoned=st.booleans(),
)
def test_serving_pods_stop_only_for_a_successor_that_fits(
    capacity, strangers, olds, wanted, cordoned
):
    """For every pod that the ReplicaSet controller may pick."""
    target = made(gpus=wanted)
    holders = [old(f"old-{n}", gpus=gpus) for n, gpus in enumerate(olds)]
    room = node(gpus=capacity, holders=[*holders, old("s", gpus=strangers)], unschedulable=cordoned)
    pods = [pending(revision=target.choice.revision), *holders]
    helped = stuck(pods, deployment(of=target)).is_helped({"n1": room})
    free = capacity - strangers - sum(olds)
    assert helped == (not cordoned and all(wanted <= free + gpus for gpus in olds))


def test_requests_are_summed_as_the_scheduler_does():
    def container(cpu, **more):
        return {"resources": {"requests": {"cpu": cpu}}} | more

    spec = {
        "containers": [container("1"), container("500m")],
        "initContainers": [
            container("3"),
            container("250m", restartPolicy="Always"),
            container("2"),
        ],
        "overhead": {"cpu": "100m", "memory": "1Ki"},
    }
    total = requested(spec)
    assert (total["cpu"], total["memory"], total["pods"]) == (
        requested({"containers": [container("3100m")]})["cpu"],
        1024,
        1,
    )


UNSCHEDULED = Finding(reasons.UNSCHEDULABLE, {"detail": "x"})
NO_GPU = Finding(reasons.INSUFFICIENT_GPU, {"detail": "x"})
CRASHED = Finding(reasons.ENGINE_CRASHED, {"detail": "x"})
LOADING = pod("new", revision=REV, ready=False)
DRAINS = old(leaving=True)
IN_PLACE = deployment(REPLACE)
FIRST = deployment(REPLACE, revision="1")


@pytest.mark.parametrize(
    ("hindrance", "live", "pods", "expected"),
    [
        # One replica without room: from the decision to the readiness of the new one.
        (UNSCHEDULED, IN_PLACE, [pending(), old()], reasons.REPLACING_IN_PLACE),
        (NO_GPU, IN_PLACE, [pending(), DRAINS], reasons.REPLACING_IN_PLACE),
        (None, IN_PLACE, [LOADING, DRAINS], reasons.REPLACING_IN_PLACE),
        (None, IN_PLACE, [LOADING], reasons.REPLACING_IN_PLACE),
        (None, IN_PLACE, [old()], reasons.REPLACING_IN_PLACE),
        (CRASHED, IN_PLACE, [LOADING], reasons.ENGINE_CRASHED),
        (None, IN_PLACE, [pod("new", revision=REV), DRAINS], None),
        (UNSCHEDULED, IN_PLACE, [pending()], reasons.UNSCHEDULABLE),  # a stranger took the room
        (None, deployment(REPLACE, complete=True), [LOADING], None),
        (None, FIRST, [LOADING], None),  # Replace by the user, and the first start
        (None, FIRST, [LOADING, DRAINS], reasons.REPLACING_IN_PLACE),
        # More than one.
        (NO_GPU, deployment(REPLACE, replicas=2), [pending(), DRAINS, old("b")],
         reasons.WAITING_FOR_DRAIN),
        (None, deployment(REPLACE, replicas=2), [LOADING, old("b")], None),
        (UNSCHEDULED, deployment(replicas=2), [pending(), old()], reasons.UNSCHEDULABLE),
        # With room for one more the second new pod waits for the first old one.
        (NO_GPU, deployment(replicas=2), [pending(), DRAINS], reasons.WAITING_FOR_DRAIN),
        (UNSCHEDULED, deployment(replicas=2),
         [pending("0/1 nodes are available: 1 node(s) were unschedulable."), DRAINS],
         reasons.UNSCHEDULABLE),
        (UNSCHEDULED, deployment(replicas=2),
         [pending("0/1 nodes are available: 1 Insufficient amd.com/gpu."), DRAINS],
         reasons.UNSCHEDULABLE),
        (NO_GPU, None, [pending(), DRAINS], reasons.INSUFFICIENT_GPU),
    ],
)  # fmt: skip
def test_what_a_pod_without_room_waits_for(hindrance, live, pods, expected):
    found = rollout.explain(hindrance, live, pods)
    assert (found and found.reason) == expected


def test_long_drain_is_no_exceeded_deadline():
    live = deployment(REPLACE, replicas=2)
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    live["status"]["conditions"] = [late]
    seen = Observation(llmd(), PLAN, None, live, (pending(), DRAINS, old("b")), True)
    assert observe(seen, "2026-01-01T12:00:00Z")["reason"] == "WaitingForDrain"


def test_scaling_into_the_room_of_a_leaving_replica_does_not_degrade():
    before = Observation(llmd(), PLAN, None, deployment(), (pod("a", revision=REV),), True)
    parent = llmd() | {"status": observe(before, "2026-01-01T11:00:00Z")}
    leaving = old("b", leaving=True)
    leaving["metadata"]["labels"] = pod(revision=REV)["metadata"]["labels"]
    pods = (pod("a", revision=REV), leaving, pending())
    seen = Observation(parent, PLAN, None, deployment(replicas=2), pods, True)
    assert observe(seen, "2026-01-01T12:00:00Z")["reason"] == "Scaling"
