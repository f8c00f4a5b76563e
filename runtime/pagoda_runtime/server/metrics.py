"""Prometheus metrics: vLLM's names and meaning under the prefix `pagoda_`, so that dashboards
carry over.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from pagoda_runtime.engine.output import Stats
from pagoda_runtime.engine.request import FinishReason

# Seconds. Finer at the low end than vLLM's, whose first inter-token bucket (10 ms) hides a fast
# engine.
_FIRST_TOKEN = (
    0.005,
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
    163.84,
)
_INTER_TOKEN = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    10.0,
)
_REQUEST = (
    0.1,
    0.3,
    0.5,
    0.8,
    1.0,
    1.5,
    2.0,
    2.5,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    40.0,
    50.0,
    60.0,
    120.0,
    240.0,
    480.0,
)


class Metrics:
    """The API process's registry. Token counters move with every engine step, not when a
    request ends.
    """

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._model_name = model_name
        self._seen = Stats(0, 0, 0, 1, 0, 0, 0)

        self._running = self._gauge("num_requests_running", "Requests that hold KV blocks.")
        self._waiting = self._gauge("num_requests_waiting", "Requests queued in the engine.")
        self._usage = self._gauge("kv_cache_usage_perc", "Share of the KV blocks in use, 0 to 1.")
        self._free = self._gauge("kv_blocks_free", "KV blocks nobody holds.")
        self._total = self._gauge("kv_blocks_total", "KV blocks.")
        self._generated = self._counter(
            "generation_tokens", "Tokens generated, counted per engine step."
        )
        self._prompted = self._counter(
            "prompt_tokens", "Prompt tokens computed or found in the cache, each counted once."
        )
        self._preempted = self._counter(
            "num_preemptions", "Requests sent back to the queue for lack of blocks."
        )
        self._queries = self._counter(
            "prefix_cache_queries", "Tokens looked up in the prefix cache."
        )
        self._hits = self._counter("prefix_cache_hits", "Tokens found in the prefix cache.")
        self._finished = Counter(
            "pagoda_request_success",
            "Requests that ended, by reason.",
            ["model_name", "finished_reason"],
            registry=self.registry,
        )
        for reason in FinishReason:
            self._finished.labels(model_name, reason)
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "Arrival to first token.", _FIRST_TOKEN
        )
        self.inter_token = self._histogram(
            "inter_token_latency_seconds", "Token to next token.", _INTER_TOKEN
        )
        self.request = self._histogram(
            "e2e_request_latency_seconds", "Arrival to end of the answer.", _REQUEST
        )
        self.queue = self._histogram(
            "request_queue_time_seconds", "Arrival to first computation.", _REQUEST
        )

    def on_stats(self, stats: Stats) -> None:
        """Take over the state after an engine step."""
        self._running.set(stats.running)
        self._waiting.set(stats.waiting)
        self._free.set(stats.free_blocks)
        self._total.set(stats.total_blocks)
        self._usage.set(1.0 - stats.free_blocks / stats.total_blocks)
        self._generated.inc(stats.generation_tokens)
        self._prompted.inc(stats.prompt_tokens)
        seen, self._seen = self._seen, stats
        self._preempted.inc(stats.preemptions_total - seen.preemptions_total)
        self._queries.inc(stats.prefix_cache_queries_total - seen.prefix_cache_queries_total)
        self._hits.inc(stats.prefix_cache_hits_total - seen.prefix_cache_hits_total)

    def on_finish(self, reason: FinishReason) -> None:
        """Count an ended request."""
        self._finished.labels(self._model_name, reason).inc()

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"pagoda_{name}", text, ["model_name"], registry=self.registry).labels(
            self._model_name
        )

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"pagoda_{name}", text, ["model_name"], registry=self.registry).labels(
            self._model_name
        )

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        metric = Histogram(
            f"pagoda_{name}", text, ["model_name"], registry=self.registry, buckets=buckets
        )
        return metric.labels(self._model_name)
