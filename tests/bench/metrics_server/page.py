"""A page of metrics as vLLM 0.32 has it: its names, its buckets, 70 KB."""

from collections.abc import Sequence

MODEL = "meta-llama/Llama-3.3-70B-Instruct"
# What moves is written in this many characters, so that a page can be made by one concatenation.
WIDTH = 18

_GAUGES = (
    "num_requests_running",
    "num_requests_waiting",
    "engine_sleep_state",
    "kv_cache_usage_perc",
)
_COUNTERS = (
    "prefix_cache_queries",
    "prefix_cache_hits",
    "external_prefix_cache_queries",
    "external_prefix_cache_hits",
    "mm_cache_queries",
    "mm_cache_hits",
    "num_preemptions",
    "prompt_tokens",
)
_SECONDS = (
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_inference_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
)
_TOKENS = (
    "iteration_tokens_total",
    "request_prompt_tokens",
    "request_generation_tokens",
    "request_max_num_generation_tokens",
    "request_params_n",
    "request_params_max_tokens",
    "request_prefill_kv_computed_tokens",
)
_LATENCY_BUCKETS = tuple(round(0.001 * 1.8**n, 4) for n in range(26))
_TOKEN_BUCKETS = tuple(float(step * 10**power) for power in range(6) for step in (1, 2, 5))


def template(size: int = 70_000) -> tuple[bytes, bytes]:
    """The page in two parts, between which the counter of generated tokens stands."""
    labels = f'engine="0",model_name="{MODEL}"'
    lines: list[str] = []
    for generation in ("0", "1", "2"):
        for kind in ("objects_collected", "objects_uncollectable", "collections"):
            lines.append(f'python_gc_{kind}_total{{generation="{generation}"}} 7031.0')
    for name in _GAUGES:
        _head(lines, name, "gauge")
        value = 0.41 if "perc" in name else 12.0
        lines.append(f"vllm:{name}{{{labels}}} {value}")
    for name in _COUNTERS:
        _head(lines, f"{name}_total", "counter")
        lines.append(f"vllm:{name}_total{{{labels}}} 1.4093827e+07")
        lines.append(f"vllm:{name}_created{{{labels}}} 1.7951022312e+09")
    _head(lines, "prompt_tokens_by_source_total", "counter")
    for source in ("local_compute", "local_cache_hit", "external_kv_transfer"):
        lines.append(f'vllm:prompt_tokens_by_source_total{{{labels},source="{source}"}} 402133.0')
    _head(lines, "request_success_total", "counter")
    for reason in ("stop", "length", "abort", "error", "repetition"):
        lines.append(f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} 9812.0')
    _head(lines, "admission_rejections_total", "counter")
    _head(lines, "generation_tokens_total", "counter")
    before = "\n".join(lines) + f"\nvllm:generation_tokens_total{{{labels}}} "
    lines = [f"vllm:generation_tokens_created{{{labels}}} 1.7951022312e+09"]
    for name in _SECONDS:
        _histogram(lines, f"vllm:{name}", labels, _LATENCY_BUCKETS)
    for name in _TOKENS:
        _histogram(lines, f"vllm:{name}", labels, _TOKEN_BUCKETS)
    number = 0
    while len(before) + WIDTH + sum(len(line) + 1 for line in lines) < size:
        route = f'handler="/v1/endpoint{number}",method="POST"'
        _histogram(lines, "http_request_duration_seconds", route, _LATENCY_BUCKETS)
        number += 1
    return before.encode(), ("\n" + "\n".join(lines) + "\n").encode()


def _head(lines: list[str], name: str, kind: str) -> None:
    lines.append(f"# HELP vllm:{name} What the engine has counted or measured of it.")
    lines.append(f"# TYPE vllm:{name} {kind}")


def _histogram(lines: list[str], name: str, labels: str, buckets: Sequence[float]) -> None:
    lines.append(f"# HELP {name} Histogram of what the engine has measured.")
    lines.append(f"# TYPE {name} histogram")
    for bucket in (*buckets, "+Inf"):
        lines.append(f'{name}_bucket{{{labels},le="{bucket}"}} 98127.0')
    lines.append(f"{name}_sum{{{labels}}} 12873.91823")
    lines.append(f"{name}_count{{{labels}}} 98127.0")
