"""What is kept of pods, and when it goes."""

import time
from typing import Any

import pytest
from pagoda.autoscaling import law
from pagoda.autoscaling.samples import KEEP_SECONDS, STALE_SECONDS, PodState, stale_seconds
from pagoda.autoscaling.scraping import pods
from pagoda.autoscaling.scraping.roster import (
    Replica,
    Roster,
    keep_deployment,
    keep_workload,
    target,
)
from pagoda.autoscaling.server.registration import Service, claims, keep

KEY = ("ns", "chat")


def pod(name: str = "chat-0", *, ready: bool = True, **status: Any) -> dict[str, Any]:
    condition = {
        "type": "Ready",
        "status": str(ready),
        "lastTransitionTime": "2026-01-01T00:01:00Z",
    }
    given = {"phase": "Running", "podIP": "10.0.0.1", "conditions": [condition]} | status
    return pods.keep(
        {
            "metadata": {
                "name": name,
                "namespace": "ns",
                "uid": f"uid-{name}",
                "labels": {"serving.pagoda.dev/llmdeployment": "chat"},
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "status": given,
        }
    )


def roster(constants: law.Constants = law.DEFAULT) -> tuple[Roster, list[Replica]]:
    found: list[Replica] = []
    made = Roster(constants, on_new=found.append)
    deployment = {
        "metadata": {"name": "chat", "namespace": "ns", "uid": "u"},
        "spec": {"autoscaling": {"targetTokensPerSecond": 700}},
    }
    made.on_deployment(None, keep_deployment(deployment))
    workload = {"metadata": {"name": "chat", "namespace": "ns"}, "spec": {"replicas": 2}}
    made.on_workload(None, keep_workload(workload))
    return made, found


def tell(known: Roster, replica: Replica, now: float, running: float) -> None:
    values = {"generation_tokens": 10 * now, "requests_running": running, "requests_waiting": 0.0}
    known.heard(replica, values, now)


def test_a_pod_is_found_ready_loads_or_leaves() -> None:
    known, new = roster()
    known.on_pod(None, pod())
    (replica,) = new
    assert replica.history.state is PodState.SERVING
    assert replica.history.start_seconds == pytest.approx(60.0)
    before = pod("chat-1", ready=False)
    known.on_pod(None, before)
    assert new[1].history.state is PodState.STARTING
    known.on_pod(before, pod("chat-1"))
    assert new[1].history.state is PodState.SERVING
    known.on_pod(pod("chat-1"), pod("chat-1", phase="Failed"))
    assert not new[1].exists
    assert len(new) == 2


def test_what_a_found_pod_runs_is_not_taken_for_new():
    known, new = roster()
    known.on_pod(None, pod())
    now = time.monotonic()
    tell(known, new[0], now, running=8)
    tell(known, new[0], now + 5, running=8)
    assert not new[0].history.is_watched_from_birth


def test_what_was_heard_a_moment_ago_is_in_the_next_answer():
    known, new = roster()
    known.on_pod(None, pod())
    now = time.monotonic()
    assert known.newest(("ns", "other"), now) is None
    for second in range(0, 25, 5):
        tell(known, new[0], now + second, running=4)
    told = known.newest(KEY, now + 20)
    assert told is not None
    assert told.requests_running.value == 4
    tell(known, new[0], now + 25, running=9)
    told = known.newest(KEY, now + 25)
    assert told is not None
    assert told.requests_running.value == 9
    assert known.newest(KEY, now + 26) is told, "nothing was heard since"


def test_whoever_saw_all_pods_start_knows_everything():
    known, _ = roster()
    assert known.is_known_from_birth, "there are none"
    before = pod("chat-1", ready=False)
    known.on_pod(None, before)
    known.on_pod(before, pod("chat-1"))
    assert known.is_known_from_birth
    found = pod("chat-2")
    known.on_pod(None, found)
    assert not known.is_known_from_birth
    known.on_pod(found, None)
    assert not known.is_known_from_birth, "what it did still counts"
    known.measure(KEY, time.monotonic() + KEEP_SECONDS + 1)
    assert known.is_known_from_birth


def test_only_pods_that_serve_and_are_heard_of_have_numbers() -> None:
    known, new = roster()
    known.on_pod(None, pod())
    known.on_pod(None, pod("chat-1", ready=False))
    now = time.monotonic()
    for replica in new:
        tell(known, replica, now, 1.0)
    assert [r.name for r in known.fresh("ns", None, now)] == ["chat-0"]
    assert [r.name for r in known.fresh("ns", "chat", now)] == ["chat-0"]
    assert list(known.fresh("ns", "other", now)) == []
    assert list(known.fresh("other", None, now)) == []
    later = now + STALE_SECONDS + 1
    assert list(known.fresh("ns", None, later)) == []
    assert known.deployments[KEY].blind(later) == ["chat-0"]


def test_rarer_scrapes_make_nobody_blind_sooner_than_three_of_them() -> None:
    known, new = roster(law.Constants(stale_seconds=stale_seconds(10)))
    known.on_pod(None, pod())
    now = time.monotonic()
    tell(known, new[0], now, 1.0)
    assert list(known.fresh("ns", None, now + 31)) == new
    assert list(known.fresh("ns", None, now + 33)) == []


def test_a_deleted_pods_gauges_go_at_once() -> None:
    known, new = roster()
    for name in ("chat-0", "chat-1"):
        known.on_pod(None, pod(name))
    now = time.monotonic()
    for step in range(61):
        for replica in new:
            tell(known, replica, now + step, 2.0)
    known.measure(KEY, now + 60)
    signals = known.deployments[KEY].signals
    assert signals is not None
    assert signals.requests_running.value == 4.0
    known.on_pod(pod("chat-1"), None)
    assert not new[1].exists
    known.measure(KEY, now + 60)
    signals = known.deployments[KEY].signals
    assert signals is not None
    assert signals.requests_running.value == 2.0
    known.measure(KEY, now + 60 + KEEP_SECONDS + 1)
    assert set(known.deployments[KEY].replicas) == {"uid-chat-0"}


def test_a_deployment_of_the_same_name_finds_its_pods() -> None:
    known, _ = roster()
    known.on_pod(None, pod())
    old = keep_deployment({"metadata": {"name": "chat", "namespace": "ns", "uid": "u"}})
    known.on_deployment(old, None)
    assert known.deployments == {}
    new = keep_deployment({"metadata": {"name": "chat", "namespace": "ns", "uid": "v"}})
    known.on_deployment(None, new)
    assert set(known.deployments[KEY].replicas) == {"uid-chat-0"}


def test_target_is_given_or_learned() -> None:
    status = {"autoscaling": {"capacity": {"tokensPerSecond": 1000}}}
    metadata = {"name": "chat", "namespace": "ns", "uid": "u"}
    learned = keep_deployment({"metadata": metadata, "spec": {}, "status": status})
    found = target(learned)
    assert found is not None
    assert found.capacity == 1000.0
    spec = {"autoscaling": {"targetTokensPerSecond": 500}}
    given = target(keep_deployment({"metadata": metadata, "spec": spec, "status": status}))
    assert given is not None
    assert given.per_replica == 500.0
    assert target(keep_deployment({"metadata": metadata, "spec": {}})) is None


def test_who_has_the_api_group() -> None:
    service = Service("ns", "m", 443)

    def registered(version: str, name: str | None, **labels: str) -> dict[str, Any]:
        reference = {"namespace": "ns", "name": name} if name else None
        group = "custom.metrics.k8s.io"
        return keep(
            {
                "metadata": {"name": f"{version}.{group}", "labels": labels},
                "spec": {"group": group, "version": version, "service": reference},
            }
        )

    ours = registered("v1beta2", "m", **{"app.kubernetes.io/managed-by": "pagoda"})
    assert claims([ours], service).ours == ours
    unlabelled = registered("v1beta2", "m")
    elsewhere = registered("v1beta2", "n", **{"app.kubernetes.io/managed-by": "pagoda"})
    local = registered("v1beta1", None)
    for other in (unlabelled, elsewhere, local):
        found = claims([other], service)
        assert found.ours is None
        assert len(found.others) == 1
    assert claims([ours, local], service).others == ["v1beta1.custom.metrics.k8s.io"]
    unrelated = keep({"metadata": {"name": "v1."}, "spec": {"version": "v1"}})
    assert claims([unrelated], service).others == []
