"""Causes that take more than the pod to tell: nodes, claims, events, logs, progress."""

from typing import Any

import pytest
from pagoda.api import conditions as reasons
from pagoda.controller.diagnosis import Evidence, PodEvent, diagnose_pods
from pagoda.controller.diagnosis.gpus import GpuHolder, GpuNode, GpuSurvey
from pagoda.engines.pagoda import start_progress

from tests.broken_pods import (
    ANONYMOUS,
    CONTAINERD,
    GPU,
    SHORT_OF,
    STARTS,
    UID,
    broken,
    creating,
    ended,
    ended_fetch,
    image,
    reported,
    unscheduled,
)


def node(name: str, gpus: int, *, usable: bool = True, **labels: str) -> GpuNode:
    return GpuNode(name, {k.replace("_", "/"): v for k, v in labels.items()}, {GPU: gpus}, usable)


def holder(name: str, count: int, at: str, *, namespace: str = "default", ours: bool = True):
    return GpuHolder(namespace, name, ours, at, {GPU: count})


@pytest.mark.parametrize(
    ("survey", "wanted", "says"),
    [
        (
            GpuSurvey((node("a", 8), node("b", 8)), (holder("x", 6, "a"), holder("y", 1, "b"), holder("notebook", 4, "b", ours=False), holder("z", 2, "a", namespace="secret"))),
            4,
            "4 nvidia.com/gpu needed on one node and 3 free, so 1 missing; 2 nodes with 16, held by "
            "LLMDeployment x (6), pod notebook (4), LLMDeployment y (1), 1 pod of other namespaces (2)",
        ),
        (GpuSurvey(()), 1, "no node offers any"),
        (GpuSurvey((node("a", 2),)), 4, "the largest has 2"),
        (GpuSurvey((node("a", 4), node("b", 4, usable=False)), (holder("x", 4, "a"),)), 4, "0 free, so 4 missing; 1 node (1 more cordoned or not ready) with 4"),
        (GpuSurvey(None, (holder("x", 4, "a"), holder("x", 4, "b"))), 4, "4 nvidia.com/gpu needed, held by LLMDeployment x (8)"),
        (GpuSurvey((node("a", 8),)), 4, "4 nvidia.com/gpu needed (0/3 nodes"),
    ],
)  # fmt: skip
def test_gpu_shortage_names_what_is_missing_and_who_holds_it(survey, wanted, says):
    finding = diagnose_pods([unscheduled(SHORT_OF, gpus=wanted)], Evidence(gpus=survey))
    assert finding is not None
    assert finding.reason is reasons.INSUFFICIENT_GPU
    assert says in finding.explain()
    assert "secret" not in finding.explain(), "other namespaces are only counted"


def test_gpu_product_that_no_node_has():
    survey = GpuSurvey((node("a", 8, **{"nvidia.com_gpu.product": "A100"}),))
    made = unscheduled(
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
        gpus=1,
        nodeSelector={"nvidia.com/gpu.product": "H100"},
    )
    finding = diagnose_pods([made], Evidence(gpus=survey))
    assert finding is not None
    assert finding.reason is reasons.INSUFFICIENT_GPU
    assert "gpu.product=H100; there are nvidia.com/gpu.product=A100" in finding.explain()


def test_claim_is_named_with_its_state():
    made = unscheduled(
        "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
        volumes=[{"name": "model", "persistentVolumeClaim": {"claimName": "models"}}],
    )
    finding = diagnose_pods([made], Evidence(claims={"models": "is Pending, with no StorageClass"}))
    assert finding is not None
    assert "claim models: is Pending, with no StorageClass" in finding.explain()


@pytest.mark.parametrize(
    ("note", "reason"),
    [
        ('MountVolume.SetUp failed for volume "tls" : secret "s" not found', reasons.SECRET_NOT_FOUND),
        ('MountVolume.SetUp failed for volume "tls" : references non-existent secret key: k', reasons.SECRET_KEY_NOT_FOUND),
        ("Failed to create pod sandbox: rpc error: code = Unknown desc = no CNI", reasons.CONFIG_ERROR),
    ],
)  # fmt: skip
def test_stuck_creation_is_told_by_events(note, reason):
    assert diagnose_pods([creating()]) is None
    events = {
        UID: (
            PodEvent("Scheduled", "Successfully assigned", "2026-01-01T00:00:00Z"),
            PodEvent("FailedMount", note, "2026-01-01T00:00:02Z"),
        )
    }
    finding = diagnose_pods([creating()], Evidence(events=events))
    assert finding is not None
    assert finding.reason is reason


KILLING = "Container engine failed liveness probe, will be restarted"
UNHEALTHY = "Liveness probe failed: engine hung: 3 requests run and no token for 61 s"


def probe_events(second: int) -> Evidence:
    at = f"2026-01-01T00:01:{second:02}Z"
    return Evidence(
        events={UID: (PodEvent("Unhealthy", UNHEALTHY, at), PodEvent("Killing", KILLING, at))}
    )


def run(ended_at: int | None) -> dict[str, Any]:
    """A container that began at 00:01:00 and, if given, ended in that minute."""
    if ended_at is None:
        state = {"running": {"startedAt": "2026-01-01T00:01:00Z"}}
        status = {"name": "engine", "started": True, "ready": False, "state": state}
        return broken(containerStatuses=[status])
    made = ended("", 137)
    end = made["status"]["containerStatuses"][0]["lastState"]["terminated"]
    end |= {"startedAt": "2026-01-01T00:01:00Z", "finishedAt": f"2026-01-01T00:01:{ended_at:02}Z"}
    return made


@pytest.mark.parametrize(
    ("made", "second", "reason"),
    [
        (run(40), 30, reasons.ENGINE_HUNG),
        (run(None), 30, reasons.ENGINE_HUNG),
        (run(20), 30, reasons.ENGINE_CRASHED),  # another run was killed for hanging
    ],
)
def test_hung_engine_is_told_by_the_kill_of_its_run(made, second, reason):
    finding = diagnose_pods([made], probe_events(second))
    assert finding is not None
    assert finding.reason is reason
    assert ("no token for 61 s" in finding.explain()) == (reason is reasons.ENGINE_HUNG)


def test_engines_traceback_wins_over_the_servers():
    made = ended("RuntimeError: Engine core initialization failed. See root cause above.")
    log = (
        "(EngineCore_DP0 pid=7) Traceback (most recent call last):\n"
        "(EngineCore_DP0 pid=7) OSError: libfoo.so: cannot open shared object file\n"
        "(APIServer pid=1) Traceback (most recent call last):\n"
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    finding = diagnose_pods([made], Evidence(logs={UID: log}))
    assert finding is not None
    assert "code 1: OSError: libfoo.so" in finding.explain()
    log = log.replace("OSError: libfoo.so", "torch.OutOfMemoryError: CUDA out of memory")
    finding = diagnose_pods([made], Evidence(logs={UID: log}))
    assert finding is not None
    assert finding.reason is reasons.GPU_OUT_OF_MEMORY


def test_missing_pull_secret_is_named():
    note = "Unable to retrieve some image pull secrets (reg); attempting to pull the image may not succeed."
    made = image("ErrImagePull", f"{CONTAINERD}{ANONYMOUS}")
    events = {UID: (PodEvent("FailedToRetrieveImagePullSecret", note, "2026-01-01T00:00:00Z"),)}
    finding = diagnose_pods([made], Evidence(events=events))
    assert finding is not None
    assert "image pull secrets (reg)" in finding.explain()


def test_next_try_of_a_download_shows_once_it_gets_on():
    made = ended_fetch(reported("HubUnavailable"))
    made["status"]["initContainerStatuses"][0]["state"] = {"running": {"startedAt": "x"}}
    for progress, reason in (
        (None, reasons.HUB_UNAVAILABLE),
        ("0 %", reasons.HUB_UNAVAILABLE),
        ("62 % of 14.2 GiB", reasons.DOWNLOADING),
    ):
        told = Evidence(downloads={UID: progress} if progress else {})
        finding = diagnose_pods([made], told)
        assert finding is not None
        assert finding.reason is reason
    assert "62 % of 14.2 GiB" in finding.explain()


def test_engine_that_loads_says_how_far_it_is():
    made = broken(containerStatuses=[STARTS])
    assert diagnose_pods([made]) is None
    told = Evidence(loads={UID: "45 % of 2.9 GiB of weights"})
    finding = diagnose_pods([made], told)
    assert finding is not None
    assert finding.reason is reasons.LOADING
    assert "45 % of 2.9 GiB of weights" in finding.explain()
    made["status"]["containerStatuses"][0] = STARTS | {"started": True}
    assert diagnose_pods([made], told) is None, "an answer from before"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"phase": "engine", "elapsed_seconds": 1}, "its process has just started"),
        (
            {"phase": "weights", "loaded_bytes": 1395864371, "total_bytes": 3087467520},
            "45 % of 2.9 GiB of weights",
        ),
        ({"phase": "self_test"}, "a first token is being generated"),
    ],
)
def test_start_progress_in_words(answer: dict[str, Any], says: str):
    assert says in start_progress(answer)


@pytest.mark.parametrize(
    "answer", [{}, {"phase": "x"}, {"phase": "weights"}, {"phase": "weights", "total_bytes": "7"}]
)
def test_what_is_no_start_progress_is_none(answer: dict[str, Any]):
    with pytest.raises(ValueError, match="progress"):
        start_progress(answer)
