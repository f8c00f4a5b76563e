"""What is measured about one engine request: metrics while it runs and when it ends, spans then."""

from __future__ import annotations

import time

from pagoda_runtime.engine.output import Delta
from pagoda_runtime.engine.request import FinishReason, SamplingParams
from pagoda_runtime.server import tracing
from pagoda_runtime.server.metrics import Metrics


class RequestMeter:
    """One request's times (`time.monotonic()` seconds) and tokens. `finish` must be its end."""

    def __init__(
        self, metrics: Metrics, params: SamplingParams, *, prompt_tokens: int, arrival: float
    ) -> None:
        self._metrics = metrics
        self.params = params
        self.prompt_tokens = prompt_tokens
        self.arrival = arrival
        self.scheduled: float | None = None
        self.first_token: float | None = None
        self.last_token = arrival
        self.completion_tokens = 0
        self.computed_tokens: int | None = None  # of the prompt
        self.num_preemptions = 0

    def on_delta(self, delta: Delta) -> None:
        """Take note of what a step brought. The path of every token: keep it cheap."""
        self.num_preemptions = max(self.num_preemptions, delta.num_preemptions)
        if delta.cached_tokens is not None:
            self.computed_tokens = self.prompt_tokens - delta.cached_tokens
        if not delta.token_ids:
            return
        now = time.monotonic()
        if self.first_token is None:
            self.first_token = now
            self._metrics.first_token.observe(now - self.arrival)
            self.scheduled = self.arrival + (delta.queue_time or 0.0)
        else:
            self._metrics.on_token_gap(now - self.last_token)
        self.last_token = now
        self.completion_tokens += len(delta.token_ids)

    def finish(self, reason: FinishReason) -> None:
        """Record the request as a whole."""
        metrics, ended = self._metrics, time.monotonic()
        metrics.on_finish(reason)
        metrics.request.observe(ended - self.arrival)
        metrics.prompt_length.observe(self.prompt_tokens)
        metrics.answer_length.observe(self.completion_tokens)
        metrics.max_tokens.observe(self.params.max_tokens)
        metrics.preemptions.observe(self.num_preemptions)
        if self.computed_tokens is not None:
            metrics.prefill_computed.observe(self.computed_tokens)
        if self.first_token is not None and self.scheduled is not None:
            metrics.queue.observe(self.scheduled - self.arrival)
            metrics.prefill.observe(self.first_token - self.scheduled)
            metrics.decode.observe(self.last_token - self.first_token)
            metrics.inference.observe(self.last_token - self.scheduled)
            if self.completion_tokens > 1:
                mean = (self.last_token - self.first_token) / (self.completion_tokens - 1)
                metrics.per_token.observe(mean)
        tracing.record(self, reason, ended)
