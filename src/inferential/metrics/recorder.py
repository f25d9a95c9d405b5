"""Records the server's metrics, event by event; they are declared in `metrics.names`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress, groupby, repeat
from operator import attrgetter, gt, mul, sub
from typing import cast

from inferential.metrics import names
from inferential.metrics.collector import MetricsCollector, Table
from inferential.metrics.store import LabelSet
from inferential.scheduler.request import CANCELLED, CLIENT_GONE, QUEUE_FULL, InferenceRequest, RefusalKind

_REFUSED = {
    RefusalKind.REJECTED: names.REQUESTS_REJECTED,
    RefusalKind.EXPIRED: names.REQUESTS_EXPIRED,
    RefusalKind.SUPERSEDED: names.REQUESTS_SUPERSEDED,
    RefusalKind.UNKNOWN_MODEL: names.DISPATCH_ERRORS,
    RefusalKind.INVALID_OBSERVATION: names.OBSERVATION_ERRORS,
    RefusalKind.MODEL_FAILED: names.DISPATCH_ERRORS,
    RefusalKind.MODEL_LOADING: names.REQUESTS_REJECTED,
    RefusalKind.MODEL_FAILING: names.REQUESTS_REJECTED,
    RefusalKind.BATCH_FAILED: names.DISPATCH_ERRORS,
}
_OF_ROBOT = frozenset({CLIENT_GONE, CANCELLED.cause})
_WITHOUT_CAUSE = frozenset({RefusalKind.EXPIRED})
_ONCE = (1.0,)
_MAX_KEYS = 8192  # of clients and models, whose labels are kept
# What is taken of each request on its way; what follows from it is computed for dozens of them at once.
_DEPARTED = attrgetter("client_id", "model_id", "received_at")
_ANSWERED = attrgetter("sent_at", "client_id", "model_id", "inference_ms", "received_at", "deadline")
_SEEN = names.OBSERVATION_STALENESS_MS, names.PAYLOAD_SIZE_BYTES
_IN_RHYTHM = *_SEEN, names.LEARNED_CADENCE_MS, names.TIME_UNTIL_NEXT_MS, names.CADENCE_DEVIATION
_BATCH, _DEPARTURE = (names.QUEUE_DEPTH, names.BATCH_SIZE), (names.SCHEDULING_WAIT_MS,)
_ANSWER, _MISS = (names.INFERENCE_LATENCY_MS, names.E2E_LATENCY_MS, names.RESPONSES_SERVED), (names.DEADLINE_MISSES,)


def _labels_of(request: InferenceRequest) -> dict[str, str]:
    return {names.CLIENT: request.client_id, names.MODEL: request.model_id}


class Recorder:
    """Turns events of the server into metrics."""

    def __init__(self, metrics: MetricsCollector) -> None:
        self._record = metrics.record
        self._add = metrics.add
        self._add_rows = metrics.add_rows
        self._add_run = metrics.add_run
        self._metrics = metrics
        self._keys: dict[tuple[str, str], LabelSet] = {}
        self._arrival = metrics.group(*_SEEN, tables_of=self._arrivals)
        self._arrival_in_rhythm = metrics.group(*_IN_RHYTHM, tables_of=self._arrivals_in_rhythm)
        self._batch = metrics.group(*_BATCH, tables_of=_batches)
        self._departure = metrics.group(*_DEPARTURE, tables_of=self._departures)
        self._answer = metrics.group(*_ANSWER, *_MISS, tables_of=self._answers)
        self._superseded = metrics.group(names.REQUESTS_SUPERSEDED)
        self._overtaken = metrics.group(names.PAYLOAD_SIZE_BYTES, names.REQUESTS_SUPERSEDED)
        self._miss = metrics.group(*_MISS)
        self._unanswered = metrics.group(names.DEADLINE_MISSES, names.REQUESTS_UNANSWERED)
        self._use = metrics.group(names.ACTION_AGE_MS, names.ACTION_UNREAD_MS)
        self._use_of_known = metrics.group(names.ACTION_AGE_MS, names.ACTION_UNREAD_MS, names.NETWORK_MS)
        self._late = metrics.group(names.LATE_ACTIONS)

    def _key(self, client_id: str, model_id: str) -> LabelSet:
        """Returns the labels of a client and a model: the same object each time, which is found in half the time."""
        key = self._keys.get((client_id, model_id))
        if key is None:
            if len(self._keys) >= _MAX_KEYS:
                self._keys.clear()
            key = self._keys[client_id, model_id] = (names.CLIENT, client_id), (names.MODEL, model_id)
        return key

    def _keys_of(self, client_ids: Sequence[str], model_ids: Sequence[str]) -> Sequence[LabelSet]:
        known = list(map(self._keys.get, zip(client_ids, model_ids, strict=True)))
        return list(map(self._key, client_ids, model_ids)) if None in known else cast("list[LabelSet]", known)

    # From rows, as they are recorded, to tables

    def _arrivals(self, rows: Sequence[tuple[float, str, str, float, int]]) -> Iterator[Table]:
        times, clients, models, staleness_ms, sizes = zip(*rows, strict=True)
        yield Table(_SEEN, times, self._keys_of(clients, models), (staleness_ms, list(map(float, sizes))))

    def _arrivals_in_rhythm(
        self, rows: Sequence[tuple[float, str, str, float, int, float, float, float]]
    ) -> Iterator[Table]:
        times, clients, models, staleness_ms, sizes, *seconds = zip(*rows, strict=True)
        columns = staleness_ms, list(map(float, sizes)), *map(_ms, seconds)
        yield Table(_IN_RHYTHM, times, self._keys_of(clients, models), columns)

    def _departures(self, rows: Sequence[tuple[float, tuple[str, str, float]]]) -> Iterator[Table]:
        times, departed = zip(*rows, strict=True)
        clients, models, received = zip(*departed, strict=True)
        yield Table(_DEPARTURE, times, self._keys_of(clients, models), (_ms(map(sub, times, received)),))

    def _answers(self, rows: Sequence[tuple[float, str, str, float, float, float]]) -> Iterator[Table]:
        times, clients, models, inference_ms, received, deadlines = zip(*rows, strict=True)
        keys = self._keys_of(clients, models)
        yield Table(_ANSWER, times, keys, (inference_ms, _ms(map(sub, times, received)), _ONCE * len(rows)))
        late = list(map(gt, times, deadlines))
        if any(late):
            missed = list(compress(times, late))
            yield Table(_MISS, missed, list(compress(keys, late)), (_ONCE * len(missed),))

    # Events

    def model_state(self, model_id: str, state: str) -> None:
        """Records that a model has come to another state."""
        self._record(names.MODEL_STATE_CHANGES, 1.0, {names.MODEL: model_id, names.STATE: state})

    def shadow_difference(self, model_id: str, apart: Sequence[float]) -> None:
        """Records how far an answer of the version in the shadow is from the robot's, by action dimension."""
        for dimension, value in enumerate(apart):
            self._record(names.SHADOW_DIFFERENCE, value, {names.MODEL: model_id, names.DIMENSION: str(dimension)})

    def outdated(self, request: InferenceRequest) -> None:
        """Records that a robot is asked for a newer observation."""
        self._record(names.REQUESTS_OUTDATED, 1.0, _labels_of(request))

    def replaced(self, request: InferenceRequest) -> None:
        """Records a result that was not sent, as a newer one was there."""
        self._record(names.RESULTS_REPLACED, 1.0, _labels_of(request))

    def observed(
        self,
        request: InferenceRequest,
        staleness_ms: float,
        learned_cadence_s: float | None,
        cadence_deviation_s: float | None,
    ) -> None:
        """Records a valid observation."""
        row = request.received_at, request.client_id, request.model_id, staleness_ms, len(request.payload)
        if learned_cadence_s is not None and cadence_deviation_s is not None:
            cadence = learned_cadence_s, request.time_until_next, cadence_deviation_s
            self._add_rows(self._arrival_in_rhythm, (row + cadence,))
            return
        self._add_rows(self._arrival, (row,))
        if learned_cadence_s is not None:
            labels = _labels_of(request)
            self._record(names.LEARNED_CADENCE_MS, learned_cadence_s * 1e3, labels)
            self._record(names.TIME_UNTIL_NEXT_MS, request.time_until_next * 1e3, labels)

    def turned_away(self, request: InferenceRequest, cause: str) -> None:
        """Records an observation that is refused on its arrival: without it more requests would end than arrive."""
        labels = _labels_of(request)
        if cause == CLIENT_GONE:
            del labels[names.CLIENT]
        self._record(names.PAYLOAD_SIZE_BYTES, float(len(request.payload)), labels)

    def flawed(
        self, request: InferenceRequest, misalignment_ms: float, *, is_stale: bool, staleness_ms: float | None = None
    ) -> None:
        """Records an observation that is stale, or whose values were seen too far apart; 0: they were not.

        With `staleness_ms` its age too, which `observed` does not record as it is refused.
        """
        if staleness_ms is not None:
            self._record(names.OBSERVATION_STALENESS_MS, staleness_ms, _labels_of(request))
        if is_stale:
            self._record(names.OBSERVATIONS_STALE, 1.0, _labels_of(request))
        if misalignment_ms:
            self._record(names.OBSERVATION_MISALIGNMENT_MS, misalignment_ms, _labels_of(request))

    def overtaken(self, client_id: str, model_id: str, payload_bytes: Sequence[int], now: float) -> None:
        """Records observations, by their sizes, that a newer one superseded before they were read whole."""
        key, count = self._key(client_id, model_id), len(payload_bytes)
        if payload_bytes.count(payload_bytes[0]) == count:
            self._add_run(self._overtaken, (now, key, (float(payload_bytes[0]), 1.0)), count)
            return
        for size, same in groupby(payload_bytes):
            self._add_run(self._overtaken, (now, key, (float(size), 1.0)), sum(1 for _ in same))

    def dispatched(self, model_id: str, requests: list[InferenceRequest], queue_depth: int, now: float) -> None:
        """Records a batch that was handed to its model at `now`."""
        self._add_rows(self._batch, ((now, model_id, queue_depth, len(requests)),))
        self._add_rows(self._departure, zip(repeat(now), map(_DEPARTED, requests)))

    def answered(self, requests: Sequence[InferenceRequest]) -> None:
        """Records results that were sent, and which of them after their deadlines."""
        self._add_rows(self._answer, map(_ANSWERED, requests))

    def late(self, request: InferenceRequest, cause: str, now: float) -> None:
        """Records an action that was late, by its cause."""
        key = (names.CAUSE, cause), *self._key(request.client_id, request.model_id)
        self._add(self._late, now, key, (1.0,))

    def applied(
        self, request: InferenceRequest, age_ms: float, unread_ms: float, network_ms: float | None, *, is_late: bool
    ) -> None:
        """Records what the robot says, with a request, of the last result that it has used."""
        key = self._key(request.client_id, request.model_id)
        if network_ms is None:
            self._add(self._use, request.received_at, key, (age_ms, unread_ms))
        else:
            self._add(self._use_of_known, request.received_at, key, (age_ms, unread_ms, network_ms))
        if is_late:
            self._add(self._miss, request.received_at, key, (1.0,))

    def refused(self, request: InferenceRequest, *, is_miss: bool) -> None:
        """Records a request that ended without a result; `is_miss`: it expired, or its robot gets nothing at all."""
        assert request.refusal is not None
        if is_miss:
            self._add(self._unanswered, time.monotonic(), self._key(request.client_id, request.model_id), (1.0, 1.0))
        kind, cause = request.refusal.kind, request.refusal.cause
        if kind is RefusalKind.SUPERSEDED:
            self._add(self._superseded, time.monotonic(), self._key(request.client_id, request.model_id), (1.0,))
            return
        if cause not in _OF_ROBOT:
            self._record(names.REQUESTS_REFUSED, 1.0, {names.MODEL: request.model_id})
        labels = _labels_of(request)
        if cause == CLIENT_GONE:
            del labels[names.CLIENT]  # the label is dropped when the client disconnects
        if cause == CLIENT_GONE or kind not in _WITHOUT_CAUSE:
            labels[names.ERROR] = cause
        self._record(names.QUEUE_FULL_DROPS if cause == QUEUE_FULL else _REFUSED[kind], 1.0, labels)

    def retried(self, request: InferenceRequest) -> None:
        """Records a failed request that is queued again."""
        self._record(names.DISPATCH_RETRIES, 1.0, _labels_of(request))

    def handed_over(self, request: InferenceRequest) -> None:
        """Records a request that another version was given, as its call took too long."""
        self._record(names.REQUESTS_HANDED_OVER, 1.0, _labels_of(request))

    def dropped(self, model_id: str) -> None:
        """Records a result that came after another version was given its request."""
        self._record(names.RESULTS_DROPPED, 1.0, {names.MODEL: model_id})

    def observation_error(self, client_id: str, error: str) -> None:
        """Records a malformed message."""
        self._record(names.OBSERVATION_ERRORS, 1.0, {names.CLIENT: client_id, names.ERROR: error})

    def handshake_failed(self, error: str) -> None:
        """Records a connection that was refused before it was established."""
        self._record(names.HANDSHAKE_FAILURES, 1.0, {names.ERROR: error})

    def send_error(self, client_id: str, kind: str, error: str) -> None:
        """Records a message that could not be sent: a "result", whose request ends by that, or a "refusal"."""
        self._record(names.SEND_ERRORS, 1.0, {names.CLIENT: client_id, names.KIND: kind, names.ERROR: error})

    def invalidated(self, client_id: str) -> None:
        """Records a response that was invalidated."""
        self._record(names.INVALIDATION_COUNT, 1.0, {names.CLIENT: client_id})

    def active_clients(self, count: int) -> None:
        """Records the number of connected clients."""
        self._record(names.ACTIVE_CLIENTS, float(count))

    def overdue(self, client_id: str, model_id: str) -> None:
        """Records a client that is overdue by its learned cadence."""
        self._record(names.CLIENT_OVERDUE, 1.0, {names.CLIENT: client_id, names.MODEL: model_id})

    def disconnected(self, client_ids: list[str]) -> None:
        """Records clients that have disconnected; what was measured of them stays, without their labels."""
        self._metrics.forget(*({names.CLIENT: client_id} for client_id in client_ids))
        for client_id in client_ids:
            self._record(names.CLIENT_DISCONNECTED, 1.0, {names.CLIENT: client_id})


def _batches(rows: Sequence[tuple[float, str, int, int]]) -> Iterator[Table]:
    times, models, depths, sizes = zip(*rows, strict=True)
    keys = [((names.MODEL, model_id),) for model_id in models]
    yield Table(_BATCH, times, keys, (list(map(float, depths)), list(map(float, sizes))))


def _ms(seconds: Iterable[float]) -> list[float]:
    return list(map(mul, seconds, repeat(1e3)))
