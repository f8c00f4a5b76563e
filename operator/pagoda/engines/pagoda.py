"""Pagoda's own runtime, `pagoda-runtime serve`."""

from pagoda.engines.base import (
    DRAIN_DELAY_SECONDS,
    PORT,
    DefaultResources,
    EngineProfile,
    HttpProbe,
    LaunchRequest,
    server_flags,
)


def _flags(request: LaunchRequest) -> list[str]:
    return [
        *server_flags(request),
        "--drain-delay",
        str(DRAIN_DELAY_SECONDS),
        "--shutdown-timeout",
        str(request.drain_seconds),
    ]


def _env(_: LaunchRequest) -> dict[str, str]:
    # The root file system is read-only; libraries that insist on a home get the scratch volume.
    return {"HOME": "/tmp"}


def _resources(_: int) -> DefaultResources:
    return DefaultResources(cpu="1", memory="2Gi", shared_memory=None)


PROFILE = EngineProfile(
    name="pagoda",
    images={"cpu": "pagoda-runtime:0.1.0"},
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
        "prompt_tokens": ("pagoda_prompt_tokens_total",),
        "requests_finished": ("pagoda_request_success_total",),
        "requests_rejected": ("pagoda_admission_rejections_total",),
        "kv_cache_usage": ("pagoda_kv_cache_usage_perc",),
    },
)
