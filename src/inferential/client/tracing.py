"""Handles that trace with OpenTelemetry: a span from an observation to its response, which the server's spans join.

The trace context is sent as W3C Trace Context, in the metadata `traceparent` and `tracestate`; clients in other
languages can send it too, and models find it in their observations. Needs `opentelemetry-api`, and for spans
to go anywhere an SDK: both are in the extra `otel`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from opentelemetry.trace import (
    Span,
    SpanKind,
    StatusCode,
    TracerProvider,
    get_tracer,
    set_span_in_context,
    use_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from inferential.client.async_model import AsyncModel
from inferential.client.model import Model
from inferential.client.result import Result
from inferential.client.session import MAX_OPEN
from inferential.errors import InferenceError

_PROPAGATOR = TraceContextTextMapPropagator()


class _Spans:
    """The open spans of one handle, by request id."""

    def __init__(self, model_id: str, provider: TracerProvider | None) -> None:
        self._model_id = model_id
        self._tracer = get_tracer("inferential.client", version("inferential"), provider)
        self._open: OrderedDict[int, Span] = OrderedDict()

    def begin(self, values: dict[str, Any]) -> Span:
        """Returns a new span within the current one, and adds its context to the values."""
        span = self._tracer.start_span(
            f"observe {self._model_id}", kind=SpanKind.CLIENT, attributes={"inferential.model.id": self._model_id}
        )
        _PROPAGATOR.inject(values, set_span_in_context(span))
        return span

    def sent(self, request_id: int, span: Span) -> int:
        """Notes the request id of the span's observation."""
        span.set_attribute("inferential.request.id", str(request_id))
        self._open[request_id] = span
        if len(self._open) > MAX_OPEN:  # the connection has forgotten the oldest by now as well
            _end_without_answer(self._open.popitem(last=False)[1])
        return request_id

    def taken(self, result: Result | None) -> Result | None:
        """Ends the spans of a result and of all older observations; returns the result."""
        if result is None:
            return None
        span = self._open.pop(result.request_id, None)
        if span is not None:
            _answered(span, result)
            span.end()
        while self._open and next(iter(self._open)) < result.request_id:
            _end_without_answer(self._open.popitem(last=False)[1])
        return result

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Ends the span of a request whose error is raised within it."""
        try:
            yield
        except InferenceError as error:
            span = self._open.pop(error.request_id, None)
            if span is not None:
                span.set_status(StatusCode.ERROR, f"{type(error).__name__}: {error.reason}")
                span.end()
            raise

    def close(self) -> None:
        """Ends the open spans."""
        while self._open:
            _end_without_answer(self._open.popitem(last=False)[1])


def _answered(span: Span, result: Result | None) -> Result | None:
    """Notes a result on its span, or that there was none in time."""
    if result is None:
        span.set_attribute("inferential.outcome", "no answer in time")
    else:
        span.set_attribute("inferential.outcome", "answered")
        span.set_attribute("inferential.age_ms", result.age_ms)
    return result


def _end_without_answer(span: Span) -> None:
    span.set_attribute("inferential.outcome", "no answer taken")
    span.end()


@contextmanager
def _unsent(span: Span) -> Iterator[None]:
    """Ends the span where anything is raised within it: there is no request then."""
    try:
        yield
    except BaseException as error:
        span.set_status(StatusCode.ERROR, f"{type(error).__name__}: {error}")
        span.end()
        raise


class TracedModel:
    """A handle of a `Connection` that traces; used as the handle itself, by one thread at a time.

    Args:
        model: the handle.
        provider: where spans go; None: OpenTelemetry's global provider.
    """

    def __init__(self, model: Model, provider: TracerProvider | None = None) -> None:
        self._model = model
        self._spans = _Spans(model.model_id, provider)

    @property
    def model_id(self) -> str:
        """The model's id."""
        return self._model.model_id

    @property
    def serve_interval_ms(self) -> float:
        """As `Model.serve_interval_ms`."""
        return self._model.serve_interval_ms

    def observe(
        self, /, urgency: float = 0.0, steps_remaining: int | None = None, priority: int | None = None, **values: Any
    ) -> int:
        """Does what `Model.observe` does, and begins a span."""
        span = self._spans.begin(values)
        with _unsent(span):
            request_id = self._model.observe(urgency, steps_remaining, priority, **values)
        return self._spans.sent(request_id, span)

    def get_result(self, timeout_ms: float = 100) -> Result | None:
        """Does what `Model.get_result` does, and ends the span of what it returns or raises."""
        with self._spans.refusals():
            return self._spans.taken(self._model.get_result(timeout_ms))

    def infer(
        self,
        /,
        timeout_ms: float = 100,
        urgency: float = 0.0,
        steps_remaining: int | None = None,
        priority: int | None = None,
        **values: Any,
    ) -> Result | None:
        """Does what `Model.infer` does, in a span."""
        with use_span(self._spans.begin(values), end_on_exit=True) as span:
            return _answered(span, self._model.infer(timeout_ms, urgency, steps_remaining, priority, **values))

    def awaits(self, request_id: int) -> bool:
        """As `Model.awaits`."""
        return self._model.awaits(request_id)

    def heard_s_ago(self) -> float:
        """As `Model.heard_s_ago`."""
        return self._model.heard_s_ago()

    def nudge(self) -> None:
        """Does what `Model.nudge` does."""
        self._model.nudge()

    def cancel(self) -> int:
        """Does what `Model.cancel` does."""
        return self._model.cancel()

    def never_wait(self) -> None:
        """Does what `Model.never_wait` does."""
        self._model.never_wait()

    def reset(self) -> None:
        """Does what `Model.reset` does, and ends the open spans."""
        self._model.reset()
        self._spans.close()

    def close(self) -> None:
        """Ends the spans that are still open; the handle itself stays as it is."""
        self._spans.close()


class TracedAsyncModel:
    """A handle of an `AsyncConnection` that traces; used as the handle itself.

    Args:
        model: the handle.
        provider: where spans go; None: OpenTelemetry's global provider.
    """

    def __init__(self, model: AsyncModel, provider: TracerProvider | None = None) -> None:
        self._model = model
        self._spans = _Spans(model.model_id, provider)

    @property
    def model_id(self) -> str:
        """The model's id."""
        return self._model.model_id

    @property
    def serve_interval_ms(self) -> float:
        """As `AsyncModel.serve_interval_ms`."""
        return self._model.serve_interval_ms

    async def observe(
        self, /, urgency: float = 0.0, steps_remaining: int | None = None, priority: int | None = None, **values: Any
    ) -> int:
        """Does what `AsyncModel.observe` does, and begins a span."""
        span = self._spans.begin(values)
        with _unsent(span):
            request_id = await self._model.observe(urgency, steps_remaining, priority, **values)
        return self._spans.sent(request_id, span)

    async def get_result(self, timeout_ms: float = 100) -> Result | None:
        """Does what `AsyncModel.get_result` does, and ends the span of what it returns or raises."""
        with self._spans.refusals():
            return self._spans.taken(await self._model.get_result(timeout_ms))

    async def cancel(self) -> int:
        """Does what `AsyncModel.cancel` does."""
        return await self._model.cancel()

    async def infer(
        self,
        /,
        timeout_ms: float = 100,
        urgency: float = 0.0,
        steps_remaining: int | None = None,
        priority: int | None = None,
        **values: Any,
    ) -> Result | None:
        """Does what `AsyncModel.infer` does, in a span."""
        with use_span(self._spans.begin(values), end_on_exit=True) as span:
            return _answered(span, await self._model.infer(timeout_ms, urgency, steps_remaining, priority, **values))

    def awaits(self, request_id: int) -> bool:
        """As `AsyncModel.awaits`."""
        return self._model.awaits(request_id)

    def heard_s_ago(self) -> float:
        """As `AsyncModel.heard_s_ago`."""
        return self._model.heard_s_ago()

    def nudge(self) -> None:
        """Does what `AsyncModel.nudge` does."""
        self._model.nudge()

    def never_wait(self) -> None:
        """Does what `AsyncModel.never_wait` does."""
        self._model.never_wait()

    async def reset(self) -> None:
        """Does what `AsyncModel.reset` does, and ends the open spans."""
        await self._model.reset()
        self._spans.close()

    def close(self) -> None:
        """Ends the spans that are still open; the handle itself stays as it is."""
        self._spans.close()
