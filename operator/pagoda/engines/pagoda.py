"""Pagoda's own runtime, `pagoda-runtime serve`, on CPU and on NVIDIA GPUs."""

from collections.abc import Mapping
from typing import Any

from pagoda.engines.base import (
    DRAIN_DELAY_SECONDS,
    PORT,
    DefaultResources,
    EngineProfile,
    HttpProbe,
    LaunchRequest,
    server_flags,
)
from pagoda.fetch.report import size

START_PATH = "/startupz"
SCRATCH = "/tmp"
IMAGE = "pagoda-runtime:0.1.0"


def _flags(request: LaunchRequest) -> list[str]:
    flags = [
        *server_flags(request),
        "--drain-delay",
        str(DRAIN_DELAY_SECONDS),
        "--shutdown-timeout",
        str(request.drain_seconds),
    ]
    if request.gpus:
        # Otherwise it would hold a GPU that it cannot use, and compute on the CPU.
        flags += ["--execution", "cuda"]
        flags += ["--tensor-parallel-size", str(request.tensor_parallel)]
    return flags


def _env(request: LaunchRequest) -> dict[str, str]:
    # The root file system is read-only; libraries that insist on a home get the scratch volume.
    env = {"HOME": SCRATCH}
    if request.gpus:
        # The volume outlives the container: one that is restarted compiles no kernel again.
        env["TRITON_CACHE_DIR"] = f"{SCRATCH}/triton"
    return env


def start_progress(data: Mapping[str, Any]) -> str:
    """Say in a few words how far the engine's start is; ValueError if it does not tell.

    Args:
        data: the document at START_PATH.
    """
    loaded, total = data.get("loaded_bytes"), data.get("total_bytes")
    match data.get("phase"):
        case "engine":
            return "its process has just started"
        case "weights" if isinstance(loaded, int) and isinstance(total, int) and total > 0:
            return f"{100 * min(loaded, total) // total} % of {size(total)} of weights"
        case "self_test":
            return "the weights are loaded, and a first token is being generated"
    raise ValueError("not a start's progress")


def _resources(gpus: int) -> DefaultResources:
    if not gpus:
        return DefaultResources(cpu="1", memory="2Gi", shared_memory=None)
    # Of the host's memory a process takes what CUDA and the largest tensor on its way to the GPU
    # need. NCCL's processes talk through /dev/shm, of which a container has 64 MiB by default.
    shared = f"{gpus}Gi" if gpus > 1 else None
    return DefaultResources(cpu=str(4 * gpus), memory=f"{16 * gpus}Gi", shared_memory=shared)


PROFILE = EngineProfile(
    name="pagoda",
    images={"cpu": IMAGE, "gpu": f"{IMAGE}-cuda"},
    port=PORT,
    command=None,
    arguments=("serve",),
    flags=_flags,
    env=_env,
    resources=_resources,
    scratch_limit="1Gi",
    ready=HttpProbe("/readyz"),
    live=HttpProbe("/livez"),
    live_timeout_seconds=5,
    drain_delay_seconds=DRAIN_DELAY_SECONDS,
    delays_by_itself=True,
    metrics={
        "requests_running": ("pagoda_num_requests_running",),
        "requests_waiting": ("pagoda_num_requests_waiting",),
        "generation_tokens": ("pagoda_generation_tokens_total",),
        # Those found in the prefix cache cost next to nothing.
        "prompt_tokens": ('pagoda_prompt_tokens_by_source_total{source="local_compute"}',),
        "requests_finished": ("pagoda_request_success_total",),
        "requests_rejected": ("pagoda_admission_rejections_total",),
        "kv_cache_usage": ("pagoda_kv_cache_usage_perc",),
    },
)
