"""OpenTelemetry traces: a span for each request with GenAI attributes, and in it queue, prefill and
decode. Off, and not even imported, unless the environment names an OTLP endpoint.

The SDK reads its own variables: OTEL_EXPORTER_OTLP_*, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES,
OTEL_TRACES_SAMPLER. Prompts and answers are never in a span.
"""

from __future__ import annotations

import logging
import os
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pagoda_runtime.engine.request import FinishReason
from pagoda_runtime.server.request_id import request_id

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

    from pagoda_runtime.server.meter import RequestMeter

log = logging.getLogger("pagoda.api")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
# What is traced, by the operation's name in OpenTelemetry's conventions for generative AI.
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
_SERVICE = "pagoda-runtime"


@dataclass
class _Trace:
    """The span of the HTTP request that is being served, and what its engine requests add up to."""

    span: Span
    tracer: Tracer
    input_tokens: int = 0
    output_tokens: int = 0
    finish_reasons: list[str] = field(default_factory=list)


_trace: ContextVar[_Trace | None] = ContextVar("trace", default=None)


def provider() -> TracerProvider | None:
    """What makes and sends spans, or None where nobody wants any. `shutdown` sends the last ones."""
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        # Not a reason to serve nothing: the variables are often set for a whole cluster.
        log.warning("no traces: install pagoda[tracing]")
        return None
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: _SERVICE}))
    made = TracerProvider(resource=resource, shutdown_on_exit=False)
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return made


class TracingMiddleware:
    """Spans the requests that generate; the caller's `traceparent` is their parent."""

    def __init__(self, app: ASGIApp, made: TracerProvider, model_name: str) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._app = app
        self._tracer = made.get_tracer("pagoda_runtime")
        self._propagator = TraceContextTextMapPropagator()
        self._model_name = model_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        operation = _OPERATIONS.get(scope["path"])
        if scope["type"] not in ("http", "websocket") or operation is None:
            await self._app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind, StatusCode

        method, status = scope.get("method", "GET"), 0
        span = self._tracer.start_span(
            f"{method} {scope['path']}",
            self._propagator.extract(Headers(scope=scope)),
            SpanKind.SERVER,
            {
                "http.request.method": method,
                "http.route": scope["path"],
                "url.path": scope["path"],
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "pagoda",
                "gen_ai.request.model": self._model_name,
                "pagoda.request_id": request_id.get(),
            },
        )

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        trace = _Trace(span, self._tracer)
        token = _trace.set(trace)
        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            span.set_status(StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            _trace.reset(token)
            if status:
                span.set_attribute("http.response.status_code", status)
            if status >= 500:
                span.set_status(StatusCode.ERROR)
            if trace.finish_reasons:
                span.set_attribute("gen_ai.usage.input_tokens", trace.input_tokens)
                span.set_attribute("gen_ai.usage.output_tokens", trace.output_tokens)
                span.set_attribute("gen_ai.response.finish_reasons", trace.finish_reasons)
            span.end()


def record(meter: RequestMeter, reason: FinishReason, ended: float) -> None:
    """Add an engine request that has ended to the span of its HTTP request, if there is one."""
    trace = _trace.get()
    if trace is None:
        return
    trace.input_tokens += meter.prompt_tokens
    trace.output_tokens += meter.completion_tokens
    trace.finish_reasons.append(reason)
    params = meter.params
    attributes: dict[str, Any] = {
        "gen_ai.request.max_tokens": params.max_tokens,
        "gen_ai.request.temperature": params.temperature,
        "gen_ai.request.top_p": params.top_p,
        "gen_ai.request.top_k": params.top_k,
        "gen_ai.request.seed": params.seed,
        "gen_ai.request.frequency_penalty": params.frequency_penalty,
        "gen_ai.request.presence_penalty": params.presence_penalty,
    }
    for name, value in attributes.items():
        if value is not None:
            trace.span.set_attribute(name, value)
    if reason in (FinishReason.ERROR, FinishReason.TIMEOUT):
        trace.span.set_attribute("error.type", reason)
    scheduled = ended if meter.scheduled is None else meter.scheduled
    epoch = monotonic_epoch()
    _child(trace, epoch, "queue", meter.arrival, scheduled)
    if meter.first_token is not None:
        _child(trace, epoch, "prefill", scheduled, meter.first_token)
        _child(trace, epoch, "decode", meter.first_token, meter.last_token)


def monotonic_epoch() -> int:
    """When `time.monotonic_ns()` was zero, in nanoseconds since 1970.

    Of three readings the one with the least between its clocks: the thread may lose its core there.
    """
    readings = []
    for _ in range(3):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        readings.append((after - before, wall - before))
    return min(readings)[1]


def _child(trace: _Trace, epoch: int, name: str, begun: float, ended: float) -> None:
    """A span of `time.monotonic()` seconds that are over."""
    from opentelemetry.trace import set_span_in_context

    span = trace.tracer.start_span(
        name, set_span_in_context(trace.span), start_time=epoch + int(begun * 1e9)
    )
    span.end(epoch + int(ended * 1e9))
