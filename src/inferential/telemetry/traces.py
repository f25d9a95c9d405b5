"""Spans of requests (OpenTelemetry), written once the robots of a batch have their answers. Nothing is exported here.

    observe MODEL            the robot (`client.tracing`), where it traces; W3C Trace Context in the metadata
    └─ infer MODEL           on the server, from arrival to answer or refusal
       ├─ queue              until its first call, or until it was refused
       └─ batch MODEL        a call that it was in, one for each attempt
          └─ model MODEL     in the backend, from observations to results; the rest of the batch is writing answers

One call belongs to as many traces as it has rows: the `batch` spans of one call have the same `inferential.batch.id`,
and are linked to that of its first row (OpenTelemetry specification, "Links between spans").
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.metadata import version

from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode, TracerProvider, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from inferential.scheduler.engine import Batch
from inferential.scheduler.request import InferenceRequest, RefusalKind, RequestState
from inferential.server import Server

_PROPAGATOR = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class _Call:
    """One attempt of a request, ended at that second of `time.monotonic()`."""

    batch: Batch
    ended_at: float


class RequestTracer:
    """Writes the spans of a server's requests, from now on.

    Args:
        server: whose requests.
        provider: where the spans go, and what of them: its sampler decides for robots that do not trace.
    """

    def __init__(self, server: Server, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("inferential", version("inferential"))
        self._calls: dict[InferenceRequest, list[_Call]] = {}
        self._ended: dict[InferenceRequest, float] = {}
        server.on_request(self._on_request)
        server.on_batch(self._on_batch)

    def _on_request(self, request: InferenceRequest) -> None:
        now, calls = time.monotonic(), self._calls.get(request, [])
        if request.dispatched_at > (calls[-1].ended_at if calls else 0.0):
            self._ended[request] = now  # others of its batch have yet to be answered: they come first
            return
        self._calls.pop(request, None)
        self._write(request, now, calls, None)

    def _on_batch(self, batch: Batch, ended_at: float) -> None:
        first: SpanContext | None = None
        for request in batch.requests:
            call = _Call(batch, ended_at)
            request_ended_at = self._ended.pop(request, None)
            if request_ended_at is not None:
                calls = [*self._calls.pop(request, []), call]
                written = self._write(request, request_ended_at, calls, first)
                first = written if first is None else first
            elif not request.over:  # it is to be tried again
                self._calls.setdefault(request, []).append(call)

    def _write(
        self, request: InferenceRequest, ended_at: float, calls: list[_Call], first: SpanContext | None
    ) -> SpanContext | None:
        """Writes the spans of a request that has ended; returns that of its last call, None if it is not sampled."""
        clock = _Clock()
        span = self._tracer.start_span(
            f"infer {request.model_id}", _parent(request), SpanKind.SERVER, start_time=clock.ns(request.received_at)
        )
        if not span.is_recording():
            span.end()
            return None
        span.set_attributes(
            {
                "inferential.client.id": request.client_id,
                "inferential.model.id": request.model_id,
                "inferential.request.id": str(request.request_id),  # 64 bits, of which JSON keeps 53
                "inferential.latency_budget_ms": request.latency_budget_ms,
                "inferential.deadline_met": request.state is RequestState.ANSWERED and ended_at <= request.deadline,
                "inferential.outcome": _outcome(request),
                "inferential.retries": request.retry_count,
            }
        )
        within = set_span_in_context(span)
        queued_until = calls[0].batch.started_at if calls else ended_at
        self._tracer.start_span("queue", within, start_time=clock.ns(request.received_at)).end(clock.ns(queued_until))
        last: SpanContext | None = None
        for call in calls:
            answered = call is calls[-1] and request.state is RequestState.ANSWERED
            last = self._write_call(
                request, call, within, first if call is calls[-1] else None, clock, answered=answered
            )
        refusal = request.refusal
        if refusal is not None and refusal.kind is not RefusalKind.SUPERSEDED:
            span.set_status(StatusCode.ERROR, refusal.reason)
        span.end(clock.ns(ended_at))
        return last

    def _write_call(
        self,
        request: InferenceRequest,
        call: _Call,
        within: Context,
        first: SpanContext | None,
        clock: _Clock,
        *,
        answered: bool,
    ) -> SpanContext:
        started_ns = clock.ns(call.batch.started_at)
        links = [] if first is None else [Link(first)]
        batch = self._tracer.start_span(f"batch {request.model_id}", within, links=links, start_time=started_ns)
        context = batch.get_span_context()
        batch.set_attribute("inferential.batch.id", f"{(first or context).span_id:016x}")
        batch.set_attribute("inferential.batch.size", len(call.batch.requests))
        if call.batch.replica:
            batch.set_attribute("inferential.replica", call.batch.replica)
        if answered:
            self._write_model(request, set_span_in_context(batch), clock.ns(request.dispatched_at))
        else:
            batch.set_status(StatusCode.ERROR)
        batch.end(clock.ns(call.ended_at))
        return context

    def _write_model(self, request: InferenceRequest, within: Context, started_ns: int) -> None:
        model = self._tracer.start_span(f"model {request.model_id}", within, start_time=started_ns)
        model.end(started_ns + int(request.inference_ms * 1e6))


class _Clock:
    """From `time.monotonic()` to nanoseconds since 1970, of the moment it is made."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def ns(self, at: float) -> int:
        return max(self._offset_ns + int(at * 1e9), 0)


def _parent(request: InferenceRequest) -> Context:
    """Returns the robot's trace context, else an empty one, even where the server itself runs within a trace."""
    return _PROPAGATOR.extract(request.metadata or {}, Context())


def _outcome(request: InferenceRequest) -> str:
    return "answered" if request.refusal is None else request.refusal.kind.name.lower()
