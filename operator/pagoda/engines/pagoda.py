"""Pagoda's own runtime, `pagoda-runtime serve`."""

from pagoda.engines.base import EngineProfile, LaunchRequest

PORT = 8000
# Endpoint changes reach every kube-proxy and load balancer within a few seconds; 10 leaves room.
DRAIN_DELAY_SECONDS = 10


def _flags(request: LaunchRequest) -> list[str]:
    return [
        "--model",
        request.model_path,
        "--served-model-name",
        request.served_name,
        "--host",
        "0.0.0.0",
        "--port",
        str(PORT),
        "--drain-delay",
        str(DRAIN_DELAY_SECONDS),
        "--shutdown-timeout",
        str(request.drain_seconds),
    ]


PROFILE = EngineProfile(
    name="pagoda",
    default_image="pagoda-runtime:0.1.0",
    port=PORT,
    command=("serve",),
    flags=_flags,
    # The root file system is read-only; libraries that insist on a home get the scratch volume.
    env={"HOME": "/tmp"},
    ready_path="/readyz",
    live_path="/livez",
    drain_delay_seconds=DRAIN_DELAY_SECONDS,
    metrics={
        "requests_running": "pagoda_num_requests_running",
        "requests_waiting": "pagoda_num_requests_waiting",
        "generation_tokens": "pagoda_generation_tokens_total",
        "prompt_tokens": "pagoda_prompt_tokens_total",
        "kv_cache_usage": "pagoda_kv_cache_usage_perc",
    },
)
