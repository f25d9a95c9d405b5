"""The metrics that the server records: name, unit, labels and meaning of each, in one table.

When they are recorded is `metrics.recorder`'s to know; docs/serving.md shows this table.
"""

from __future__ import annotations

from dataclasses import dataclass

CLIENT = "client"
MODEL = "model"
ERROR = "error"

INFERENCE_LATENCY_MS = "inference_latency_ms"
SCHEDULING_WAIT_MS = "scheduling_wait_ms"
E2E_LATENCY_MS = "e2e_latency_ms"
OBSERVATION_STALENESS_MS = "observation_staleness_ms"
PAYLOAD_SIZE_BYTES = "payload_size_bytes"
QUEUE_DEPTH = "queue_depth"
BATCH_SIZE = "batch_size"
QUEUE_FULL_DROPS = "queue_full_drops"
REQUESTS_REJECTED = "requests_rejected"
REQUESTS_EXPIRED = "requests_expired"
REQUESTS_SUPERSEDED = "requests_superseded"
DISPATCH_ERRORS = "dispatch_errors"
DISPATCH_RETRIES = "dispatch_retries"
DEADLINE_MISSES = "deadline_misses"
RESPONSES_SERVED = "responses_served"
INVALIDATION_COUNT = "invalidation_count"
SEND_ERRORS = "send_errors"
OBSERVATION_ERRORS = "observation_errors"
ACTIVE_CLIENTS = "active_clients"
CLIENT_OVERDUE = "client_overdue"
CLIENT_DISCONNECTED = "client_disconnected"
LEARNED_CADENCE_MS = "learned_cadence_ms"
CADENCE_DEVIATION = "cadence_deviation"
TIME_UNTIL_NEXT_MS = "time_until_next_ms"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: what to ask for.
        unit: of its values; "1" where each point counts one event.
        labels: that its points may carry.
        description: what is recorded, when.
    """

    name: str
    unit: str
    labels: tuple[str, ...]
    description: str


_BOTH = (CLIENT, MODEL)
_ALL = (CLIENT, MODEL, ERROR)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(INFERENCE_LATENCY_MS, "ms", _BOTH, "for every result: from dispatch to the model's answer"),
        Metric(SCHEDULING_WAIT_MS, "ms", _BOTH, "at dispatch: from arrival"),
        Metric(E2E_LATENCY_MS, "ms", _BOTH, "for every result: from arrival to departure"),
        Metric(OBSERVATION_STALENESS_MS, "ms", _BOTH, "at arrival: the observation's age by the client's clock"),
        Metric(PAYLOAD_SIZE_BYTES, "bytes", _BOTH, "at arrival"),
        Metric(QUEUE_DEPTH, "requests", (MODEL,), "at dispatch: what still waits for the model"),
        Metric(BATCH_SIZE, "requests", (MODEL,), "at dispatch"),
        Metric(QUEUE_FULL_DROPS, "1", _ALL, "a request went for want of room"),
        Metric(
            REQUESTS_REJECTED,
            "1",
            _ALL,
            "refused for another reason: draining, not accepted, client gone (then without client)",
        ),
        Metric(REQUESTS_EXPIRED, "1", _BOTH, "waited longer than its time to live"),
        Metric(REQUESTS_SUPERSEDED, "1", _BOTH, "gave way to a newer observation"),
        Metric(DISPATCH_ERRORS, "1", _ALL, "the model failed or is unknown"),
        Metric(DISPATCH_RETRIES, "1", _BOTH, "a failed request was tried again"),
        Metric(DEADLINE_MISSES, "1", _BOTH, "a result later than its deadline, or expired"),
        Metric(RESPONSES_SERVED, "1", _BOTH, "a result was sent"),
        Metric(
            INVALIDATION_COUNT,
            "1",
            (CLIENT,),
            "a response became void: its request was refused, or it could not be delivered",
        ),
        Metric(SEND_ERRORS, "1", (CLIENT, ERROR), "a message to a client could not be sent"),
        Metric(
            OBSERVATION_ERRORS, "1", _ALL, "a message was not believed (then without model), or an image was broken"
        ),
        Metric(ACTIVE_CLIENTS, "clients", (), "a client came or went: how many there are"),
        Metric(CLIENT_OVERDUE, "1", _BOTH, "a client is late by its own rhythm; once for each silence"),
        Metric(CLIENT_DISCONNECTED, "1", (CLIENT,), "silent for `response_tracking.disconnect_timeout_s`; once"),
        Metric(LEARNED_CADENCE_MS, "ms", _BOTH, "at arrival: the client's learned period"),
        Metric(CADENCE_DEVIATION, "ms", _BOTH, "at arrival: this interval less the period learned before it"),
        Metric(TIME_UNTIL_NEXT_MS, "ms", _BOTH, "at arrival: until the next observation is due"),
    )
}
"""By name, in the order of the documentation."""
