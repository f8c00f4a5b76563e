"""vLLM's OpenAI server, on GPU and on CPU."""

from pagoda.engines.base import DefaultResources, EngineProfile, HttpProbe, LaunchRequest

PORT = 8000
# Endpoint changes reach every kube-proxy and load balancer within a few seconds; 10 leaves room.
DRAIN_DELAY_SECONDS = 10
GIB = 1 << 30
SCRATCH = "/tmp"


def _flags(request: LaunchRequest) -> list[str]:
    flags = [
        "--model",
        request.model_path,
        "--served-model-name",
        request.served_name,
        "--host",
        "0.0.0.0",
        "--port",
        str(PORT),
    ]
    if request.gpus:
        flags += ["--tensor-parallel-size", str(request.tensor_parallel)]
    return flags


def _env(request: LaunchRequest) -> dict[str, str]:
    env = {
        "HOME": SCRATCH,
        "HF_HOME": f"{SCRATCH}/hf",
        "XDG_CACHE_HOME": f"{SCRATCH}/cache",
        "VLLM_CACHE_ROOT": f"{SCRATCH}/vllm",
        "TORCHINDUCTOR_CACHE_DIR": f"{SCRATCH}/inductor",
        "TRITON_CACHE_DIR": f"{SCRATCH}/triton",
        "HF_HUB_OFFLINE": "1",  # engines never download
        "VLLM_NO_USAGE_STATS": "1",
    }
    if not request.gpus:
        env["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, request.memory_bytes // (4 * GIB)))
    return env


def _resources(gpus: int) -> DefaultResources:
    if not gpus:
        return DefaultResources(cpu="2", memory="8Gi", shared_memory="1Gi")
    shared = "1Gi" if gpus == 1 else f"{2 * gpus}Gi"
    return DefaultResources(cpu=str(4 * gpus), memory=f"{32 * gpus}Gi", shared_memory=shared)


PROFILE = EngineProfile(
    name="vllm",
    images={"gpu": "vllm/vllm-openai:v0.11.0", "cpu": "vllm/vllm-openai-cpu:v0.11.0"},
    port=PORT,
    command=("python3", "-m", "vllm.entrypoints.openai.api_server"),
    arguments=(),
    flags=_flags,
    env=_env,
    resources=_resources,
    scratch_limit="10Gi",
    ready=HttpProbe("/health"),
    live=HttpProbe("/health"),
    live_timeout_seconds=10,
    drain_delay_seconds=DRAIN_DELAY_SECONDS,
    delays_by_itself=False,
    metrics={
        "requests_running": ("vllm:num_requests_running",),
        "requests_waiting": ("vllm:num_requests_waiting",),
        "generation_tokens": ("vllm:generation_tokens_total",),
        "prompt_tokens": ("vllm:prompt_tokens_total",),
        "kv_cache_usage": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    },
)
