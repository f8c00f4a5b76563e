"""Every cause by the words of those who report it: kubelet, scheduler, controllers, engines."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pagoda.api import conditions as reasons
from pagoda.controller.cause import Observation
from pagoda.controller.diagnosis import Evidence, Finding, PodEvent, diagnose_pods, shorten
from pagoda.controller.diagnosis.deployment import diagnose_deployment
from pagoda.controller.diagnosis.gpus import GpuHolder, GpuNode, GpuSurvey
from pagoda.controller.diagnosis.text import MESSAGE_LIMIT, shorten_tail
from pagoda.controller.status import observe
from pagoda.engines.pagoda import start_progress

from tests.builders import crashed, live_deployment, llmd, plan, pod, waiting

PLAN = plan()
REV = PLAN.choice.revision
UID = "uid-toy-1"
GPU = "nvidia.com/gpu"

CONTAINERD = 'failed to pull and unpack image "r.example/a/b:1": failed to resolve reference "r.example/a/b:1": '
ANONYMOUS = "failed to authorize: failed to fetch anonymous token: unexpected status from GET request to https://r.example/token: 401 Unauthorized"
SHORT_OF = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."

STARTS = {"name": "engine", "started": False, "state": {"running": {"startedAt": "x"}}}


def broken(**status: Any) -> dict[str, Any]:
    return pod(revision=REV, ready=False, **status)


def unscheduled(message: str, gpus: int = 0, **spec: Any) -> dict[str, Any]:
    made = broken(
        phase="Pending",
        conditions=[
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": message,
            }
        ],
    )
    limits = {"cpu": "1"} | ({GPU: str(gpus)} if gpus else {})
    made["spec"] = {"containers": [{"name": "engine", "resources": {"limits": limits}}]} | spec
    return made


def creating() -> dict[str, Any]:
    return broken(
        phase="Pending",
        conditions=[{"type": "PodScheduled", "status": "True"}],
        containerStatuses=waiting("ContainerCreating"),
    )


def fetching(**status: Any) -> dict[str, Any]:
    init = {
        "name": "fetch",
        "image": "pagoda",
        "restartCount": 0,
        "started": False,
        "lastState": {},
    }
    engine = waiting("PodInitializing")
    return broken(
        phase="Pending",
        conditions=[{"type": "PodScheduled", "status": "True"}],
        initContainerStatuses=[init | status],
        containerStatuses=engine,
    )


def ended_fetch(message: str, code: int = 1, reason: str = "Error") -> dict[str, Any]:
    end = {"exitCode": code, "reason": reason, "message": message}
    back_off = "back-off 20s restarting failed container=fetch pod=toy-1_default(uid-toy-1)"
    return fetching(
        restartCount=2,
        state={"waiting": {"reason": "CrashLoopBackOff", "message": back_off}},
        lastState={"terminated": end},
    )


def reported(reason: str, message: str = "what to know") -> str:
    return json.dumps({"reason": reason, "message": message})


def image(reason: str, message: str) -> dict[str, Any]:
    return broken(containerStatuses=waiting(reason, message, image="r.example/a/b:1"))


def ended(message: str, code: int = 1, reason: str = "Error") -> dict[str, Any]:
    return broken(containerStatuses=crashed(code, message=message, reason=reason))


def lost() -> dict[str, Any]:
    """As the node controller leaves it: readiness gone, containers as last reported."""
    status = {
        "name": "engine",
        "ready": True,
        "started": True,
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
    }
    return broken(containerStatuses=[status])


def failed(reason: str, message: str, *, name: str = "toy-0", at: str = "2026-01-01T00:00:00Z"):
    made = pod(name, revision=REV, ready=False, phase="Failed", reason=reason, message=message)
    made["metadata"]["creationTimestamp"] = at
    return made


@pytest.mark.parametrize(
    ("made", "reason", "says"),
    [
        # Images: containerd, CRI-O, registries.
        (image("ErrImagePull", f"rpc error: code = NotFound desc = {CONTAINERD}r.example/a/b:1: not found"), reasons.IMAGE_NOT_FOUND, "r.example/a/b:1"),
        (image("ImagePullBackOff", f'Back-off pulling image "r.example/a/b:1": ErrImagePull: {CONTAINERD}r.example/a/b:1: not found'), reasons.IMAGE_NOT_FOUND, "does not exist"),
        (image("ErrImagePull", "initializing source docker://r.example/a/b:1: reading manifest 1 in r.example/a/b: manifest unknown"), reasons.IMAGE_NOT_FOUND, "push the image"),
        (image("ErrImageNeverPull", 'Container image "r.example/a/b:1" is not present with pull policy of Never'), reasons.IMAGE_NOT_FOUND, "pull policy of Never"),
        (image("ErrImagePull", f"{CONTAINERD}pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed"), reasons.IMAGE_PULL_DENIED, "imagePullSecrets"),
        (image("ErrImagePull", f"{CONTAINERD}{ANONYMOUS}"), reasons.IMAGE_PULL_DENIED, "401 Unauthorized"),
        (image("ErrImagePull", f"{CONTAINERD}unexpected status from HEAD request to https://r.example/v2/a/b/manifests/1: 403 Forbidden"), reasons.IMAGE_PULL_DENIED, "403"),
        (image("ErrImagePull", f'{CONTAINERD}failed to do request: Head "https://r.example/v2/": dial tcp: lookup r.example: no such host'), reasons.IMAGE_PULL_FAILED, "no such host"),
        (image("ErrImagePull", f'{CONTAINERD}failed to do request: Head "https://r.example/v2/": dial tcp 10.0.0.9:443: connect: connection refused'), reasons.IMAGE_PULL_FAILED, "reach the registry"),
        (image("ErrImagePull", "no match for platform in manifest: not found"), reasons.IMAGE_PULL_FAILED, "platform"),
        (image("InvalidImageName", 'Failed to apply default image tag "A:b:c": couldn\'t parse image name'), reasons.IMAGE_PULL_FAILED, "parse image name"),
        # Secrets, ConfigMaps, keys.
        (broken(containerStatuses=waiting("CreateContainerConfigError", 'secret "hf" not found')), reasons.SECRET_NOT_FOUND, 'secret "hf" not found'),
        (broken(containerStatuses=waiting("CreateContainerConfigError", 'configmap "c" not found')), reasons.SECRET_NOT_FOUND, 'configmap "c"'),
        (fetching(state={"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "hf" not found'}}), reasons.SECRET_NOT_FOUND, "spec.model.secretRef"),
        (broken(containerStatuses=waiting("CreateContainerConfigError", "couldn't find key HF_TOKEN in Secret default/hf")), reasons.SECRET_KEY_NOT_FOUND, "HF_TOKEN in Secret"),
        (broken(containerStatuses=waiting("CreateContainerConfigError", "container has runAsNonRoot and image will run as root")), reasons.CONFIG_ERROR, "runAsNonRoot"),
        (broken(containerStatuses=waiting("RunContainerError", 'failed to create containerd task: exec: "nosuch": executable file not found in $PATH')), reasons.CONFIG_ERROR, "nosuch"),
        # The scheduler.
        (unscheduled(SHORT_OF, gpus=4), reasons.INSUFFICIENT_GPU, "4 nvidia.com/gpu needed"),
        (unscheduled("0/3 nodes are available: 3 Insufficient cpu."), reasons.UNSCHEDULABLE, "3 Insufficient cpu"),
        (unscheduled("0/3 nodes are available: 3 node(s) had untolerated taint {x: }."), reasons.UNSCHEDULABLE, "taint"),
        (unscheduled('0/1 nodes are available: persistentvolumeclaim "models" not found. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.'), reasons.VOLUME_NOT_FOUND, '"models" not found. Create'),
        (unscheduled("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."), reasons.VOLUME_NOT_BOUND, "unbound immediate"),
        (unscheduled("0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind."), reasons.VOLUME_NOT_BOUND, "to bind"),
        (unscheduled("0/2 nodes are available: 2 node(s) had volume node affinity conflict."), reasons.VOLUME_NOT_BOUND, "affinity conflict"),
        # The download's own reports.
        (ended_fetch(reported("ModelAccessDenied", "the hub answers 401: the token is not valid")), reasons.MODEL_ACCESS_DENIED, "token is not valid"),
        (ended_fetch(reported("ModelNotFound", "no repository a/b")), reasons.MODEL_NOT_FOUND, "a/b"),
        (ended_fetch(reported("ChecksumMismatch", "model.safetensors")), reasons.CHECKSUM_MISMATCH, "model.safetensors"),
        (ended_fetch(reported("DiskFull", "needs 14 GiB, 3 GiB are free")), reasons.DISK_FULL, "14 GiB"),
        (ended_fetch(reported("HubUnavailable", "connection refused")), reasons.HUB_UNAVAILABLE, "refused"),
        (ended_fetch(reported("ModelFormatUnsupported", "no safetensors")), reasons.MODEL_FORMAT_UNSUPPORTED, "safetensors"),
        (ended_fetch(reported("FetchFailed", "a defect")), reasons.FETCH_FAILED, "a defect"),
        (ended_fetch("OSError: [Errno 28] No space left on device"), reasons.DISK_FULL, "No space left"),
        (ended_fetch("Traceback (most recent call last):\nKeyError: 'x'"), reasons.FETCH_FAILED, "KeyError: 'x'"),
        (ended_fetch("", 137, "OOMKilled"), reasons.OUT_OF_MEMORY, "The download was killed"),
        (fetching(state={"running": {"startedAt": "2026-01-01T00:00:00Z"}}), reasons.DOWNLOADING, "just begun"),
        # The engine.
        (ended("", 137, "OOMKilled"), reasons.OUT_OF_MEMORY, "The engine was killed at its memory limit"),
        (ended("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), reasons.OUT_OF_MEMORY, "allocate"),
        (ended("MemoryError"), reasons.OUT_OF_MEMORY, "MemoryError"),
        (ended("(EngineCore_DP0 pid=71) ERROR 11-02 10:00:00 [core.py:708] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\nRuntimeError: Engine core initialization failed. See root cause above."), reasons.GPU_OUT_OF_MEMORY, "Tried to allocate 2.00 GiB"),
        (ended("torch.OutOfMemoryError: HIP out of memory."), reasons.GPU_OUT_OF_MEMORY, "HIP"),
        (ended("ValueError: Free memory on device (1.2/79.1 GiB) on startup is less than desired GPU memory utilization (0.9, 71.2 GiB)."), reasons.GPU_OUT_OF_MEMORY, "1.2/79.1"),
        (ended("ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"), reasons.MODEL_TOO_LARGE, "cache blocks"),
        (ended("ValueError: The model's max seq len (131072) is larger than the maximum number of tokens that can be stored in KV cache (20576)."), reasons.MODEL_TOO_LARGE, "131072"),
        (ended("ValueError: To serve at least one request with the models's max seq len (40960), (4.38 GiB KV cache is needed, which is larger than the available KV cache memory (0.5 GiB)."), reasons.MODEL_TOO_LARGE, "4.38 GiB"),
        (ended("one request of 4096 tokens needs 800 bytes of KV cache, there are 10: lower --max-model-len"), reasons.MODEL_TOO_LARGE, "4096"),
        (ended("one request of 40960 tokens needs 4697620480 bytes of KV cache, the GPU has room for 0 (of 8589934592, 8053063680 are in use and a step takes 805306368): lower --max-model-len"), reasons.MODEL_TOO_LARGE, "the GPU has room for 0"),
        (ended("OutOfMemoryError: CUDA out of memory. Tried to allocate 594.00 MiB. GPU 0 has a total capacity of 23.50 GiB"), reasons.GPU_OUT_OF_MEMORY, "594.00 MiB"),
        (ended("/models/x holds only pickled weights, which can run code when opened: convert them to safetensors"), reasons.MODEL_FORMAT_UNSUPPORTED, "pickled"),
        (ended("ValueError: Model architectures ['FooForCausalLM'] are not supported for now."), reasons.MODEL_FORMAT_UNSUPPORTED, "FooForCausalLM"),
        (ended("boom, token=abcdef"), reasons.ENGINE_CRASHED, "code 1: boom, token=***"),
        (ended("engine hung: 1 requests are running and no figure moved for 60 s", 137), reasons.ENGINE_HUNG, "no figure moved"),
        (ended("", 0, "Completed"), reasons.ENGINE_CRASHED, "code 0: it left no message"),
        # Nodes.
        (lost(), reasons.NODE_LOST, "node n1"),
        (failed("Evicted", 'Usage of EmptyDir volume "scratch" exceeds the limit "1Gi". '), reasons.EVICTED, 'Evicted: Usage of EmptyDir volume "scratch"'),
        (failed("OutOfcpu", "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000, used: 100, capacity: 900"), reasons.EVICTED, "OutOfcpu"),
        (failed("NodeShutdown", "Pod was rejected as the node is shutting down."), reasons.EVICTED, "shutting down"),
        (failed("Terminated", "Pod was terminated in response to imminent node shutdown."), reasons.EVICTED, "imminent node shutdown"),
    ],
)  # fmt: skip
def test_cause(made, reason, says):
    seen = Observation(llmd(), PLAN, None, live_deployment(PLAN), (made,), True)
    status = observe(seen, "2026-01-01T00:00:00Z")
    (ready,) = [c for c in status["conditions"] if c["type"] == "Ready"]
    assert (status["reason"], ready["status"]) == (reason.name, "False")
    assert says in ready["message"]
    (model,) = [c for c in status["conditions"] if c["type"] == "ModelReady"]
    assert (model["status"] == "False") == reason.concerns_model


@pytest.mark.parametrize(
    ("message", "reason", "says"),
    [
        ('pods "toy-5f7d9c-x7k2p" is forbidden: exceeded quota: q, requested: limits.cpu=1, used: limits.cpu=1, limited: limits.cpu=1', reasons.QUOTA_EXCEEDED, "limited: limits.cpu=1"),
        ('pods "toy-5f7d9c-x7k2p" is forbidden: failed quota: q: must specify limits.memory', reasons.QUOTA_EXCEEDED, "must specify"),
        ('pods "toy-5f7d9c-x7k2p" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false', reasons.POD_REJECTED, "PodSecurity"),
        ('pods "toy-5f7d9c-x7k2p" is forbidden: maximum cpu usage per Container is 1, but limit is 2', reasons.POD_REJECTED, "maximum cpu usage"),
        ('admission webhook "p.example" denied the request: no latest tag', reasons.POD_REJECTED, "no latest tag"),
        ('Internal error occurred: failed calling webhook "p.example": dial tcp', reasons.POD_REJECTED, "failed calling"),
        ('error looking up service account default/x: serviceaccount "x" not found', reasons.POD_REJECTED, "service account"),
    ],
)  # fmt: skip
def test_deployment_that_makes_no_pod(message, reason, says):
    condition = {"type": "ReplicaFailure", "status": "True", "message": message}
    finding = diagnose_deployment(live_deployment(PLAN, conditions=[condition]))
    assert finding is not None
    assert finding.reason is reason
    assert says in finding.explain()
    assert "x7k2p" not in finding.explain(), "the name is another one with each try"


# --- What has to be asked ----------------------------------------------------------------------


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


# --- Pods that their nodes ended ---------------------------------------------------------------


def successor(at: str) -> dict[str, Any]:
    made = broken()
    made["metadata"]["creationTimestamp"] = at
    return made


def test_eviction_is_told_until_the_successor_serves_and_no_longer():
    gone = failed("Evicted", "The node was low on resource: ephemeral-storage.")
    finding = diagnose_pods([gone, successor("2026-01-01T00:00:01Z")])
    assert finding is not None
    assert finding.reason is reasons.EVICTED
    later = diagnose_pods([gone, successor("2026-01-02T00:00:00Z")])
    assert later is None, "a scale-up the next day has nothing to do with it"


def test_pods_evicted_for_ever_are_said_to_be():
    gone = [
        failed("Evicted", "scratch", name=f"e{n}", at=f"2026-01-01T00:00:{n}0Z") for n in range(4)
    ]
    finding = diagnose_pods([*gone, successor("2026-01-01T00:00:40Z")])
    assert finding is not None
    assert "again and again" in finding.explain()


def test_replica_deleted_with_its_node_is_told_until_its_successor_serves():
    disruption = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "DeletionByTaintManager",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    gone = pod("gone", revision=REV, ready=False, leaving=True, conditions=[disruption])
    finding = diagnose_pods([gone, successor("2026-01-01T00:00:01Z")])
    assert finding is not None
    assert finding.reason is reasons.NODE_LOST
    assert diagnose_pods([gone, pod(revision=REV), successor("2026-01-02T00:00:00Z")]) is None


# --- Steady and clean ---------------------------------------------------------------------------


def message_of(made: dict[str, Any], parent: dict[str, Any]) -> dict[str, Any]:
    seen = Observation(parent, PLAN, None, live_deployment(PLAN), (made,), True)
    return observe(seen, "2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ended("2026-01-01T10:00:00.1Z ERROR pid=12 lost at 0x7f12ab34cd"), ended("2026-01-01T10:05:09.7Z ERROR pid=98 lost at 0x7f99999999")),
        (image("ErrImagePull", "rpc error: code = Unknown desc = dial tcp: read tcp 10.0.0.1:4001->10.0.0.2:443: reset"), image("ImagePullBackOff", 'Back-off pulling image "r.example/a/b:1": ErrImagePull: dial tcp: read tcp 10.0.0.1:55123->10.0.0.2:443: reset')),
    ],
)  # fmt: skip
def test_what_differs_in_nothing_but_numbers_writes_no_status(one, other):
    first = message_of(one, llmd())
    other["status"]["containerStatuses"][0]["restartCount"] += 1
    assert message_of(other, llmd() | {"status": first}) == first
    edited = llmd(generation=2) | {"status": first}
    assert message_of(other, edited)["observedGeneration"] == 2


secrets = st.text(
    alphabet="abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
    min_size=12,
    max_size=40,
)
PLACES = (
    "hf_{}",
    "token=hf_{} rest",
    "Authorization: Bearer {}",
    "authorization: Basic {}",
    "{{'Authorization': 'Bearer {}'}}",
    "HF_TOKEN={}",
    "AWS_SECRET_ACCESS_KEY={} AWS_REGION=x",
    "environ({{'HOME': '/tmp', 'DB_PASSWORD': '{}'}})",
    '{{"api_key": "{}"}}',
    '{{\\"secret\\": \\"{}\\"}}',
    "https://user:{}@r.example/v2/",
    "https://{}@r.example/v2/",
    "https://s3.example/x?X-Amz-Signature={}&y=1",
    "https://s3.example/x?X-Amz-Security-Token={}&y=1",
    "AKIA{}",
    "eyJ{}.payload.signature",
    "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
    "password: {}",
    "ghp_{} glpat-{}",
    'passphrase = "my {} words"',
)  # fmt: skip


around = st.text(alphabet=" ,.:;'\"=&é\n\t", max_size=20)


@given(secret=secrets, place=st.sampled_from(PLACES), before=around, after=around)
def test_no_secret_reaches_a_message(secret, place, before, after):
    if place.startswith("AKIA"):
        secret = secret.upper()
    text = f"{before} {place.replace('{}', secret).replace('{{', '{').replace('}}', '}')} {after}"
    assert secret not in shorten(text)
    assert secret not in shorten_tail(text)


@given(st.text())
def test_messages_are_one_short_line(text):
    line = shorten(text)
    assert len(line) <= MESSAGE_LIMIT + 1
    assert "\n" not in line


def test_log_that_is_cut_within_a_secret_loses_that_line():
    log = "f_abcdefghijklmnop leaked\n" + "x" * 2100
    assert "abcdefgh" not in shorten_tail(log)


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=100 is above the limit",
        "tokenizer: /models/x is missing",
        'secret "hf-token" not found',
        "couldn't find key HF_TOKEN in Secret default/hf",
    ],
)
def test_what_is_no_secret_stays(text):
    assert shorten(text) == text


def test_problem_wins_over_pods():
    problem = Finding(reasons.RESOURCE_CONFLICT, {"detail": "Service toy exists."})
    seen = Observation(llmd(), PLAN, problem, live_deployment(PLAN), (ended("x"),), True)
    assert observe(seen, "2026-01-01T00:00:00Z")["reason"] == "ResourceConflict"
