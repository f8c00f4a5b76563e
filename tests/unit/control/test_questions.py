"""What is asked about pods, and what is not."""

import pytest
from pagoda.controller.questions import PODS_ASKED, questions

from tests.builders import crashed, pod, waiting

GPU = {"nvidia.com/gpu": "1"}


def kinds(*pods):
    return {question.kind for question in questions(pods)}


def broken(name="toy-1", **status):
    return pod(name, revision="r", ready=False, **status)


def unscheduled(message, **spec):
    condition = {"type": "PodScheduled", "status": "False", "message": message}
    made = broken(conditions=[condition])
    made["spec"] = {"containers": [], "volumes": []} | spec
    return made


def test_pods_that_serve_or_leave_are_not_asked_about():
    crash = crashed(1, message="")
    assert not kinds(
        pod(revision="r"), pod("b", revision="r", leaving=True, containerStatuses=crash)
    )
    assert not kinds(broken(phase="Failed", containerStatuses=crash))


@pytest.mark.parametrize(
    ("message", "asked"),
    [
        ("", True),
        ("RuntimeError: Engine core initialization failed. See root cause above.", True),
        ("Traceback (most recent call last):\n  File x\nKeyError: 1", True),
        ("Traceback (most recent call last):\ntorch.OutOfMemoryError: CUDA out of memory", False),
        ("usage: serve\nserve: error: unrecognized arguments: --x", False),
    ],
)
def test_log_is_read_only_where_the_last_words_do_not_tell(message, asked):
    assert ("log" in kinds(broken(containerStatuses=crashed(1, message=message)))) == asked


def test_log_is_read_once_per_run():
    def question(run):
        state = crashed(1)
        state[0]["lastState"]["terminated"]["containerID"] = run
        (found,) = [q for q in questions([broken(containerStatuses=state)]) if q.kind == "log"]
        return found

    assert question("a").repeat is None
    assert question("a").version == question("a").version != question("b").version


def test_pod_being_made_is_asked_about_after_a_while():
    scheduled = {"type": "PodScheduled", "status": "True"}
    made = broken(conditions=[scheduled], containerStatuses=waiting("ContainerCreating"))
    (question,) = questions([made])
    assert (question.kind, question.delay > 0) == ("events", True)


def test_unscheduled_pods():
    container = {"name": "engine", "resources": {"limits": GPU}}
    assert kinds(unscheduled("Insufficient nvidia.com/gpu", containers=[container])) == {"gpus"}
    assert not kinds(unscheduled("Insufficient cpu"))
    volume = {"name": "m", "persistentVolumeClaim": {"claimName": "models"}}
    assert kinds(unscheduled("unbound immediate PersistentVolumeClaims", volumes=[volume])) == {
        "claim"
    }
    assert not kinds(unscheduled('persistentvolumeclaim "models" not found', volumes=[volume]))


def test_a_fleet_is_not_asked_pod_by_pod():
    pods = [broken(f"toy-{n}", containerStatuses=crashed(1)) for n in range(20)]
    assert len([q for q in questions(pods) if q.kind == "log"]) == PODS_ASKED


def test_engine_that_starts_is_asked_how_far_it_is():
    engine = {"name": "engine", "started": False, "state": {"running": {"startedAt": "x"}}}
    (asked,) = questions([broken(podIP="10.0.0.1", containerStatuses=[engine])])
    assert (asked.kind, asked.details) == ("load", {"address": "10.0.0.1"})
    assert asked.repeat
    assert "load" not in kinds(broken(containerStatuses=[engine])), "it has no address yet"
    ready = engine | {"started": True}
    assert "load" not in kinds(broken(podIP="10.0.0.1", containerStatuses=[ready]))
