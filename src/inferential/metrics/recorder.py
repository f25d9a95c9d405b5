"""What the server records, event by event.

What happened is told to it; what is recorded has the names and labels of `metrics.names`.
"""

from __future__ import annotations

from inferential.metrics import names
from inferential.metrics.collector import MetricsCollector
from inferential.metrics.store import LabelSet
from inferential.scheduler.request import CLIENT_GONE, QUEUE_FULL, InferenceRequest, RefusalKind

_REFUSED = {
    RefusalKind.REJECTED: names.REQUESTS_REJECTED,
    RefusalKind.EXPIRED: names.REQUESTS_EXPIRED,
    RefusalKind.SUPERSEDED: names.REQUESTS_SUPERSEDED,
    RefusalKind.UNKNOWN_MODEL: names.DISPATCH_ERRORS,
    RefusalKind.INVALID_OBSERVATION: names.OBSERVATION_ERRORS,
    RefusalKind.MODEL_FAILED: names.DISPATCH_ERRORS,
}
_PLAIN = frozenset({RefusalKind.EXPIRED, RefusalKind.SUPERSEDED})


def _of(request: InferenceRequest) -> dict[str, str]:
    return {names.CLIENT: request.client_id, names.MODEL: request.model_id}


def _key(request: InferenceRequest) -> LabelSet:
    return (names.CLIENT, request.client_id), (names.MODEL, request.model_id)


class Recorder:
    """Turns events of the server into metrics."""

    def __init__(self, metrics: MetricsCollector) -> None:
        self._record = metrics.record
        self._add = metrics.add
        self._metrics = metrics
        self._arrival = metrics.form(names.OBSERVATION_STALENESS_MS, names.PAYLOAD_SIZE_BYTES)
        self._arrival_in_rhythm = metrics.form(
            names.OBSERVATION_STALENESS_MS,
            names.PAYLOAD_SIZE_BYTES,
            names.LEARNED_CADENCE_MS,
            names.TIME_UNTIL_NEXT_MS,
            names.CADENCE_DEVIATION,
        )
        self._batch = metrics.form(names.QUEUE_DEPTH, names.BATCH_SIZE)
        self._departure = metrics.form(names.SCHEDULING_WAIT_MS)
        self._answer = metrics.form(names.INFERENCE_LATENCY_MS, names.E2E_LATENCY_MS, names.RESPONSES_SERVED)
        self._miss = metrics.form(names.DEADLINE_MISSES)

    def observed(
        self,
        request: InferenceRequest,
        staleness_ms: float,
        learned_cadence_s: float | None,
        cadence_deviation_s: float | None,
    ) -> None:
        """An observation came in and was believed."""
        at, key, size = request.received_at, _key(request), float(len(request.payload))
        if learned_cadence_s is not None and cadence_deviation_s is not None:
            cadence_ms, deviation_ms = learned_cadence_s * 1e3, cadence_deviation_s * 1e3
            values = (staleness_ms, size, cadence_ms, request.time_until_next * 1e3, deviation_ms)
            self._add(self._arrival_in_rhythm, at, key, values)
            return
        self._add(self._arrival, at, key, (staleness_ms, size))
        if learned_cadence_s is not None:
            labels = _of(request)
            self._record(names.LEARNED_CADENCE_MS, learned_cadence_s * 1e3, labels)
            self._record(names.TIME_UNTIL_NEXT_MS, request.time_until_next * 1e3, labels)

    def dispatched(self, model_id: str, requests: list[InferenceRequest], queue_depth: int, now: float) -> None:
        """A batch was handed to its model."""
        self._add(self._batch, now, ((names.MODEL, model_id),), (float(queue_depth), float(len(requests))))
        for request in requests:
            self._add(self._departure, now, _key(request), ((now - request.received_at) * 1e3,))

    def answered(self, request: InferenceRequest, inference_ms: float, now: float) -> None:
        """A result was sent."""
        key = _key(request)
        self._add(self._answer, now, key, (inference_ms, (now - request.received_at) * 1e3, 1.0))
        if now > request.deadline:
            self._add(self._miss, now, key, (1.0,))

    def refused(self, request: InferenceRequest) -> None:
        """A request ended without a result."""
        assert request.refusal is not None
        kind, cause = request.refusal.kind, request.refusal.cause
        labels = _of(request)
        if cause == CLIENT_GONE:
            del labels[names.CLIENT]  # what stands under the client's name goes with the client
        if cause == CLIENT_GONE or kind not in _PLAIN:
            labels[names.ERROR] = cause
        self._record(names.QUEUE_FULL_DROPS if cause == QUEUE_FULL else _REFUSED[kind], 1.0, labels)
        if kind is RefusalKind.EXPIRED:
            self._record(names.DEADLINE_MISSES, 1.0, labels)

    def retried(self, request: InferenceRequest) -> None:
        """A failed request goes back into the queue."""
        self._record(names.DISPATCH_RETRIES, 1.0, _of(request))

    def observation_error(self, client_id: str, error: str) -> None:
        """A message was not believed."""
        self._record(names.OBSERVATION_ERRORS, 1.0, {names.CLIENT: client_id, names.ERROR: error})

    def send_error(self, client_id: str, error: str) -> None:
        """A message to a client could not be sent."""
        self._record(names.SEND_ERRORS, 1.0, {names.CLIENT: client_id, names.ERROR: error})

    def invalidated(self, client_id: str) -> None:
        """A response became void."""
        self._record(names.INVALIDATION_COUNT, 1.0, {names.CLIENT: client_id})

    def active_clients(self, count: int) -> None:
        """The number of clients changed."""
        self._record(names.ACTIVE_CLIENTS, float(count))

    def overdue(self, client_id: str, model_id: str) -> None:
        """A client is late by its own rhythm."""
        self._record(names.CLIENT_OVERDUE, 1.0, {names.CLIENT: client_id, names.MODEL: model_id})

    def gone(self, client_ids: list[str]) -> None:
        """Clients are gone; what was kept of them goes too, but for that they went."""
        self._metrics.forget(*({names.CLIENT: client_id} for client_id in client_ids))
        for client_id in client_ids:
            self._record(names.CLIENT_DISCONNECTED, 1.0, {names.CLIENT: client_id})
