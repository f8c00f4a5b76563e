"""Every cause by the words of those who report it: kubelet, scheduler, controllers, engines."""

from typing import Any

import pytest
from pagoda.api import conditions as reasons
from pagoda.controller.cause import Observation
from pagoda.controller.diagnosis import Finding, diagnose_pods
from pagoda.controller.diagnosis.deployment import diagnose_deployment
from pagoda.controller.status import observe

from tests.broken_pods import (
    ANONYMOUS,
    CONTAINERD,
    PLAN,
    REV,
    SHORT_OF,
    broken,
    ended,
    ended_fetch,
    failed,
    fetching,
    image,
    lost,
    reported,
    unscheduled,
)
from tests.builders import live_deployment, llmd, pod, waiting


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


def test_problem_wins_over_pods():
    problem = Finding(reasons.RESOURCE_CONFLICT, {"detail": "Service toy exists."})
    seen = Observation(llmd(), PLAN, problem, live_deployment(PLAN), (ended("x"),), True)
    assert observe(seen, "2026-01-01T00:00:00Z")["reason"] == "ResourceConflict"


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
