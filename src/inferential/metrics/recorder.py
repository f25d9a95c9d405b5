"""What the server records, event by event.

It knows the names and labels of the contract; what happened is told to it.
"""

from __future__ import annotations

from inferential.metrics.collector import MetricsCollector
from inferential.scheduler.admission import CLIENT_GONE, QUEUE_FULL
from inferential.scheduler.request import InferenceRequest, RefusalKind

_REFUSED = {
    RefusalKind.REJECTED: "requests_rejected",
    RefusalKind.EXPIRED: "requests_expired",
    RefusalKind.SUPERSEDED: "requests_superseded",
    RefusalKind.UNKNOWN_MODEL: "dispatch_errors",
    RefusalKind.INVALID_OBSERVATION: "observation_errors",
    RefusalKind.MODEL_FAILED: "dispatch_errors",
}
_PLAIN = frozenset({RefusalKind.EXPIRED, RefusalKind.SUPERSEDED})


class Recorder:
    """Turns events of the server into metrics."""

    def __init__(self, metrics: MetricsCollector) -> None:
        self._record = metrics.record
        self._metrics = metrics
        self._labels: dict[str, dict[str, dict[str, str]]] = {}

    def _of(self, request: InferenceRequest) -> dict[str, str]:
        """The labels of a request, the same object for every request of a client and model."""
        models = self._labels.get(request.client_id)
        if models is None:
            models = self._labels[request.client_id] = {}
        found = models.get(request.model_id)
        if found is None:
            found = models[request.model_id] = {"client": request.client_id, "model": request.model_id}
        return found

    def observed(
        self,
        request: InferenceRequest,
        staleness_ms: float,
        learned_cadence_s: float | None,
        cadence_deviation_s: float | None,
    ) -> None:
        """An observation came in and was believed."""
        labels = self._of(request)
        self._record("observation_staleness_ms", staleness_ms, labels)
        self._record("payload_size_bytes", float(len(request.payload)), labels)
        if learned_cadence_s is not None:
            self._record("learned_cadence_ms", learned_cadence_s * 1e3, labels)
            self._record("time_until_next_ms", request.time_until_next * 1e3, labels)
        if cadence_deviation_s is not None:
            self._record("cadence_deviation", cadence_deviation_s * 1e3, labels)

    def dispatched(self, model_id: str, requests: list[InferenceRequest], queue_depth: int, now: float) -> None:
        """A batch was handed to its model."""
        model = {"model": model_id}
        self._record("queue_depth", float(queue_depth), model)
        self._record("batch_size", float(len(requests)), model)
        for request in requests:
            self._record("scheduling_wait_ms", (now - request.received_at) * 1e3, self._of(request))

    def answered(self, request: InferenceRequest, inference_ms: float, now: float) -> None:
        """A result was sent."""
        labels = self._of(request)
        e2e_ms = (now - request.received_at) * 1e3
        self._record("inference_latency_ms", inference_ms, labels)
        self._record("e2e_latency_ms", e2e_ms, labels)
        self._record("responses_served", 1.0, labels)
        if e2e_ms > request.latency_budget_ms:
            self._record("deadline_misses", 1.0, labels)

    def refused(self, request: InferenceRequest) -> None:
        """A request ended without a result."""
        assert request.refusal is not None
        kind, cause = request.refusal.kind, request.refusal.cause
        labels = self._of(request)
        if cause == CLIENT_GONE:
            # Not under the client's name: what stands there goes with the client.
            labels = {"model": request.model_id, "error": cause}
        elif kind not in _PLAIN:
            labels = labels | {"error": cause}
        self._record("queue_full_drops" if cause == QUEUE_FULL else _REFUSED[kind], 1.0, labels)
        if kind is RefusalKind.EXPIRED:
            self._record("deadline_misses", 1.0, labels)

    def retried(self, request: InferenceRequest) -> None:
        """A failed request goes back into the queue."""
        self._record("dispatch_retries", 1.0, self._of(request))

    def observation_error(self, client_id: str, error: str) -> None:
        """A message was not believed."""
        self._record("observation_errors", 1.0, {"client": client_id, "error": error})

    def send_error(self, client_id: str, error: str) -> None:
        """A message to a client could not be sent."""
        self._record("send_errors", 1.0, {"client": client_id, "error": error})

    def invalidated(self, client_id: str) -> None:
        """A response became void."""
        self._record("invalidation_count", 1.0, {"client": client_id})

    def active_clients(self, count: int) -> None:
        """The number of clients changed."""
        self._record("active_clients", float(count))

    def overdue(self, client_id: str, model_id: str) -> None:
        """A client is late by its own rhythm."""
        self._record("client_overdue", 1.0, {"client": client_id, "model": model_id})

    def gone(self, client_ids: list[str]) -> None:
        """Clients are gone; what was kept of them goes too, but for that they went."""
        for client_id in client_ids:
            self._labels.pop(client_id, None)
        self._metrics.forget("client", client_ids)
        for client_id in client_ids:
            self._record("client_disconnected", 1.0, {"client": client_id})
