"""Prometheus metrics: vLLM's names and meaning under the prefix `pagoda_`, so that dashboards
carry over; with `--metrics-compat=vllm` also under vLLM's own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from pagoda_runtime.config import EngineConfig
from pagoda_runtime.engine.output import Stats
from pagoda_runtime.engine.request import FinishReason
from pagoda_runtime.server import buckets

PREFIX = "pagoda_"
M = TypeVar("M", Gauge, Counter)
# Under vLLM's prefix these would say something vLLM does not.
_OURS_ONLY = (
    "pagoda_ready",
    "pagoda_startup_seconds",
    "pagoda_step_seconds",
    "pagoda_kv_blocks_free",
    "pagoda_kv_blocks_total",
    "pagoda_http_requests",
    "pagoda_http_request_duration_seconds",
)
# What comes with every token is counted in batches, when a page is asked for at the latest: a step
# alone takes 50 µs, one of many 9. Small enough to hold up nobody.
_BATCH = 256
# What vLLM counts in its API server, without the label `engine`.
_ACROSS_ENGINES = ("pagoda_admission_rejections",)


class Metrics:
    """The API process's registry. Token counters move with every engine step, not when a
    request ends.
    """

    def __init__(self, model_name: str, config: EngineConfig, *, vllm_names: bool = False) -> None:
        # When a series began tells nobody anything here, and would double the page.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)
        self._vllm_names = vllm_names
        self._model_name = model_name
        self._config = config
        self._seen = Stats(0, 0, 0, 0, 0, 0, 0)
        self._steps: list[Stats] = []
        self._token_gaps: list[float] = []

        self.ready = self._one(Gauge, "ready", "1 while /readyz answers 200.")
        self._startup = self._new(
            Gauge,
            "startup_seconds",
            "Seconds that a phase of the start took, and all of it.",
            "phase",
        )
        self._engine_state()
        self._engine_work()
        self._requests()
        self._http()

    def _engine_state(self) -> None:
        self._running = self._one(Gauge, "num_requests_running", "Requests that hold KV blocks.")
        self._waiting = self._one(Gauge, "num_requests_waiting", "Requests queued in the engine.")
        reasons = self._new(
            Gauge,
            "num_requests_waiting_by_reason",
            "Queued requests by what they wait for.",
            "reason",
        )
        # Nothing else is ever waited for here; vLLM's other reason, "deferred", stands at zero.
        self._waiting_by_reason = reasons.labels(self._model_name, "capacity")
        reasons.labels(self._model_name, "deferred").set(0)
        self._usage = self._one(
            Gauge, "kv_cache_usage_perc", "Share of the KV blocks in use, 0 to 1."
        )
        self._free = self._one(Gauge, "kv_blocks_free", "KV blocks nobody holds.")
        self._total = self._one(Gauge, "kv_blocks_total", "KV blocks.")
        self._cache_config = self._new(
            Gauge,
            "cache_config_info",
            "Always 1; the labels tell how the KV cache is made.",
            "block_size",
            "num_gpu_blocks",
            "enable_prefix_caching",
        )
        lora = self._new(
            Gauge,
            "lora_requests_info",
            "When the labels were last true: adapters that run and wait. There are none yet.",
            "max_lora",
            "running_lora_adapters",
            "waiting_lora_adapters",
        )
        lora.labels(self._model_name, "0", "", "").set(time.time())

    def _engine_work(self) -> None:
        self._generated = self._one(
            Counter, "generation_tokens", "Tokens generated, counted per engine step."
        )
        self._prompted = self._one(
            Counter,
            "prompt_tokens",
            "Prompt tokens computed or found in the cache, each counted once.",
        )
        sources = self._new(
            Counter, "prompt_tokens_by_source", "Prompt tokens by where they come from.", "source"
        )
        self._computed = sources.labels(self._model_name, "local_compute")
        self._cached = sources.labels(self._model_name, "local_cache_hit")
        self._all_cached = self._one(
            Counter, "prompt_tokens_cached", "Prompt tokens found in the cache."
        )
        tiers = self._new(
            Counter,
            "prompt_tokens_cached_by_source",
            "Tokens found in the prefix cache, by tier.",
            "source",
        )
        self._tier = tiers.labels(self._model_name, "device")
        self._preempted = self._one(
            Counter, "num_preemptions", "Requests sent back to the queue for lack of blocks."
        )
        self._queries = self._one(
            Counter, "prefix_cache_queries", "Tokens looked up in the prefix cache."
        )
        self._hits = self._one(Counter, "prefix_cache_hits", "Tokens found in the prefix cache.")
        self._step_tokens = self._histogram(
            "iteration_tokens_total", "Tokens computed in one engine step.", buckets.STEP_TOKENS
        )
        self._step_seconds = self._histogram(
            "step_seconds", "Length of one engine step.", buckets.STEP
        )

    def _requests(self) -> None:
        self._finished = self._new(
            Counter, "request_success", "Requests that ended, by reason.", "finished_reason"
        )
        for reason in FinishReason:
            self._finished.labels(self._model_name, reason)
        self._rejected = self._new(
            Counter, "admission_rejections", "Requests refused before they were queued.", "reason"
        )
        for refused in ("max_num_queued_reqs", "max_num_queued_tokens", "loading", "draining"):
            self._rejected.labels(self._model_name, refused)
        seconds = self._histogram
        self.first_token = seconds(
            "time_to_first_token_seconds", "Arrival to first token.", buckets.FIRST_TOKEN
        )
        self._inter_token = seconds(
            "inter_token_latency_seconds", "Token to next token.", buckets.INTER_TOKEN
        )
        self.per_token = seconds(
            "request_time_per_output_token_seconds",
            "A request's mean time from token to token.",
            buckets.INTER_TOKEN,
        )
        self.request = seconds(
            "e2e_request_latency_seconds", "Arrival to end of the answer.", buckets.REQUEST
        )
        self.queue = seconds(
            "request_queue_time_seconds", "Arrival to first computation.", buckets.REQUEST
        )
        self.prefill = seconds(
            "request_prefill_time_seconds",
            "First computation to first token.",
            buckets.REQUEST,
        )
        self.decode = seconds(
            "request_decode_time_seconds", "First token to last token.", buckets.REQUEST
        )
        self.inference = seconds(
            "request_inference_time_seconds",
            "First computation to last token.",
            buckets.REQUEST,
        )
        self.prompt_length = seconds(
            "request_prompt_tokens", "Prompt tokens of a request.", buckets.TOKENS
        )
        self.answer_length = seconds(
            "request_generation_tokens", "Answer tokens of a request.", buckets.TOKENS
        )
        self.longest_answer = seconds(
            "request_max_num_generation_tokens",
            "Tokens of the longest answer to a prompt.",
            buckets.TOKENS,
        )
        self.prefill_computed = seconds(
            "request_prefill_kv_computed_tokens",
            "Prompt tokens of a request that the cache did not have.",
            buckets.TOKENS,
        )
        self.preemptions = seconds(
            "request_num_preemptions",
            "How often a request was sent back to the queue.",
            buckets.PREEMPTIONS,
        )
        self.max_tokens = seconds(
            "request_params_max_tokens", "max_tokens of a request.", buckets.TOKENS
        )
        self.n = seconds("request_params_n", "n of a request.", buckets.N)

    def _http(self) -> None:
        self._responses = Counter(
            f"{PREFIX}http_requests",
            "HTTP answers by method, route and status.",
            ["method", "handler", "status"],
            registry=self._registry,
        )
        self._durations = Histogram(
            f"{PREFIX}http_request_duration_seconds",
            "First byte of a request to last byte of its answer.",
            ["method", "handler"],
            registry=self._registry,
            buckets=buckets.REQUEST,
        )

    def on_stats(self, stats: Stats) -> None:
        """Take note of the state after an engine step."""
        self._steps.append(stats)
        if len(self._steps) + len(self._token_gaps) >= _BATCH:
            self._settle()

    def on_token_gap(self, seconds: float) -> None:
        """Take note of the time from a request's token to its next."""
        self._token_gaps.append(seconds)

    def _settle(self) -> None:
        for stats in self._steps:
            self._count(stats)
        self._steps.clear()
        for seconds in self._token_gaps:
            self._inter_token.observe(seconds)
        self._token_gaps.clear()

    def _count(self, stats: Stats) -> None:
        if stats.total_blocks != self._seen.total_blocks:
            self._total.set(stats.total_blocks)
            config = self._config
            self._cache_config.labels(
                self._model_name,
                config.block_size,
                stats.total_blocks,
                config.enable_prefix_caching,
            ).set(1)
        self._running.set(stats.running)
        self._waiting.set(stats.waiting)
        self._waiting_by_reason.set(stats.waiting)
        self._free.set(stats.free_blocks)
        self._usage.set(1.0 - stats.free_blocks / stats.total_blocks)
        seen, self._seen = self._seen, stats
        if stats.step_seconds is None:
            return  # The heartbeat of an idle engine.
        self._generated.inc(stats.generation_tokens)
        computed = stats.prompt_tokens - stats.cached_tokens
        if stats.prompt_tokens:
            self._prompted.inc(stats.prompt_tokens)
            self._computed.inc(computed)
            self._cached.inc(stats.cached_tokens)
            self._all_cached.inc(stats.cached_tokens)
        self._step_tokens.observe(stats.generation_tokens + computed)
        self._step_seconds.observe(stats.step_seconds)
        self._preempted.inc(stats.preemptions_total - seen.preemptions_total)
        self._queries.inc(stats.prefix_cache_queries_total - seen.prefix_cache_queries_total)
        hits = stats.prefix_cache_hits_total - seen.prefix_cache_hits_total
        self._hits.inc(hits)
        self._tier.inc(hits)

    def on_finish(self, reason: FinishReason) -> None:
        """Count an ended request."""
        self._finished.labels(self._model_name, reason).inc()

    def on_rejection(self, reason: str) -> None:
        """Count a request that was not admitted."""
        self._rejected.labels(self._model_name, reason).inc()

    def on_startup(self, phase: str, seconds: float) -> None:
        """Record how long a phase of the start took."""
        self._startup.labels(self._model_name, phase).set(seconds)

    def on_response(self, method: str, handler: str, status: int, seconds: float) -> None:
        """Count an HTTP answer. `method` and `handler` are of a bounded set."""
        self._responses.labels(method, handler, status).inc()
        self._durations.labels(method, handler).observe(seconds)

    async def page(self) -> bytes:
        """All metrics in Prometheus' text format."""
        self._settle()
        # Milliseconds of work, which probes and streams need not wait for.
        return await asyncio.to_thread(self._render)

    def _render(self) -> bytes:
        page = generate_latest(self._registry) + generate_latest(self._process)
        return page + generate_latest(_VllmNames(self._registry)) if self._vllm_names else page

    def _one(self, kind: type[M], name: str, text: str) -> M:
        return self._new(kind, name, text).labels(self._model_name)

    def _new(self, kind: type[M], name: str, text: str, *labels: str) -> M:
        return kind(PREFIX + name, text, ["model_name", *labels], registry=self._registry)

    def _histogram(self, name: str, text: str, bounds: Sequence[float]) -> Histogram:
        metric = Histogram(
            PREFIX + name, text, ["model_name"], registry=self._registry, buckets=bounds
        )
        return metric.labels(self._model_name)


class _VllmNames(Collector):
    """What a registry collects, under vLLM's names and with its label `engine`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Collect it."""
        for metric in self._registry.collect():
            if metric.name in _OURS_ONLY:
                continue
            engine = {} if metric.name in _ACROSS_ENGINES else {"engine": "0"}
            renamed = Metric(_vllm_name(metric.name), metric.documentation, metric.type)
            renamed.samples = [
                s._replace(name=_vllm_name(s.name), labels=s.labels | engine)
                for s in metric.samples
            ]
            yield renamed


def _vllm_name(name: str) -> str:
    return "vllm:" + name.removeprefix(PREFIX)
