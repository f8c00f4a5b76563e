"""Our metrics under vLLM's names, beside those of the real one's sources."""

import re
import runpy

from pagoda_runtime.config import EngineConfig
from pagoda_runtime.engine.output import Stats
from pagoda_runtime.server.metrics import Metrics
from prometheus_client.parser import text_string_to_metric_families

from dev.vllm_cpu import site_packages

# vLLM's buckets by the histogram, as its loggers.py chooses them.
FAMILIES = {
    "time_to_first_token_seconds": "TIME_TO_FIRST_TOKEN",
    "inter_token_latency_seconds": "INTER_TOKEN_LATENCY",
    "request_time_per_output_token_seconds": "INTER_TOKEN_LATENCY",
    "e2e_request_latency_seconds": "REQUEST_LATENCY",
    "request_queue_time_seconds": "REQUEST_LATENCY",
    "request_prefill_time_seconds": "REQUEST_LATENCY",
    "request_decode_time_seconds": "REQUEST_LATENCY",
    "request_inference_time_seconds": "REQUEST_LATENCY",
    "iteration_tokens_total": "ITERATION_TOKENS",
    "request_params_n": "REQUEST_PARAMS_N",
    "request_num_preemptions": "REQUEST_NUM_PREEMPTIONS",
}

TOKENS = (
    "request_prompt_tokens",
    "request_generation_tokens",
    "request_max_num_generation_tokens",
    "request_prefill_kv_computed_tokens",
    "request_params_max_tokens",
)


async def test_names_and_buckets_are_vllm_s():
    folder = site_packages() / "vllm" / "v1" / "metrics"
    known = set(re.findall(r'"(vllm:\w+)"', (folder / "loggers.py").read_text()))
    assert "vllm:num_requests_running" in known
    metrics = Metrics("m", EngineConfig("m"), vllm_names=True)
    metrics.on_stats(Stats(0, 0, 4, 4, 0, 0, 0))
    families = list(text_string_to_metric_families((await metrics.page()).decode()))
    theirs = {f.name: f for f in families if f.name.startswith("vllm:")}
    assert set(theirs) <= known
    buckets = runpy.run_path(str(folder / "buckets.py"))
    for name, family in FAMILIES.items():
        samples = theirs[f"vllm:{name}"].samples
        bounds = {float(s.labels["le"]) for s in samples if "le" in s.labels}
        assert set(buckets[f"{family}_BUCKETS"]) <= bounds, name
    for name in TOKENS:
        samples = theirs[f"vllm:{name}"].samples
        bounds = {float(s.labels["le"]) for s in samples if "le" in s.labels}
        assert set(buckets["build_1_2_5_buckets"](131_072)) <= bounds, name
