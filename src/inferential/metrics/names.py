"""The metrics that the server records, each declared once: name, unit, labels and description.

A metric is recorded where its event happens, mostly in `metrics.recorder`. Prometheus, OpenTelemetry and the table in
docs/serving.md follow from the declarations here.
"""

from __future__ import annotations

from typing import Self

CLIENT = "client"
MODEL = "model"
ERROR = "error"
KIND = "kind"
CAUSE = "cause"
STATE = "state"
DIMENSION = "dimension"

METRICS: dict[str, Metric] = {}
"""All declared metrics by name, in the order of the documentation."""


class Metric(str):
    """A metric's name, with its declaration.

    Attributes:
        unit: unit of its values; "1" if each point counts one event.
        labels: the labels that its points may have.
        description: what is recorded, and when.
        exported: whether Prometheus and OpenTelemetry get its points. False for states that a gauge of the current
            value shows better, and for values that may be negative, which a histogram of durations cannot hold.
    """

    unit: str
    labels: tuple[str, ...]
    description: str
    exported: bool

    def __new__(cls, name: str, unit: str, labels: tuple[str, ...], description: str, *, exported: bool = True) -> Self:
        metric = super().__new__(cls, name)
        metric.unit, metric.labels, metric.description, metric.exported = unit, labels, description, exported
        return metric

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """Pickles the name alone: a callback may send what it is called with to another process."""
        return str, (self.name,)

    @property
    def name(self) -> str:
        """The name as a plain string."""
        return str(self)


def declare(name: str, unit: str, labels: tuple[str, ...], description: str, *, exported: bool = True) -> Metric:
    """Declares a metric; the arguments are the attributes of `Metric`.

    Raises:
        ValueError: the name is declared already.
    """
    if name in METRICS:
        raise ValueError(f"metric {name!r} is declared already; choose another name")
    metric = METRICS[name] = Metric(name, unit, labels, description, exported=exported)
    return metric


_BOTH = (CLIENT, MODEL)
_ALL = (CLIENT, MODEL, ERROR)

INFERENCE_LATENCY_MS = declare(
    "inference_latency_ms", "ms", _BOTH, "for every result: from dispatch to the end of the model call"
)
SCHEDULING_WAIT_MS = declare("scheduling_wait_ms", "ms", _BOTH, "at dispatch: since arrival")
E2E_LATENCY_MS = declare("e2e_latency_ms", "ms", _BOTH, "for every result: from arrival until it was sent")
ACTION_AGE_MS = declare(
    "action_age_ms", "ms", _BOTH, "with an observation: how old the last action was when the robot applied it"
)
ACTION_UNREAD_MS = declare(
    "action_unread_ms",
    "ms",
    _BOTH,
    "with an observation: how long the robot's last answer was unread after its arrival",
)
NETWORK_MS = declare(
    "network_ms",
    "ms",
    _BOTH,
    "with an observation: of the last action's age, what was spent neither on the server nor unread on the robot",
)
RECORDING_DROPS = declare(
    "recording_drops", "1", (), "a request was not recorded: its disk is slower than requests come, or not writable"
)
FOXGLOVE_DROPS = declare(
    "foxglove_drops", "1", (), "a request was not shown in Foxglove: requests come faster than they can be encoded"
)
LATE_ACTIONS = declare(
    "late_actions",
    "1",
    (CLIENT, MODEL, CAUSE),
    "an action was too old when it was applied, or sent where the robot does not say; cause: network, queue, batch, "
    "model, encode or unread",
)
OBSERVATION_STALENESS_MS = declare(
    "observation_staleness_ms",
    "ms",
    _BOTH,
    "at arrival: the observation's age as its robot says it (`captured_at`), else by the client's wall clock",
)
OBSERVATIONS_STALE = declare(
    "observations_stale", "1", _BOTH, "at arrival: the robot says an age above `observations.max_staleness_ms`"
)
OBSERVATION_MISALIGNMENT_MS = declare(
    "observation_misalignment_ms",
    "ms",
    _BOTH,
    "at arrival, of an observation whose values were seen more than `observations.temporal_alignment_threshold_ms` "
    "apart: how far",
)
PAYLOAD_SIZE_BYTES = declare("payload_size_bytes", "bytes", _BOTH, "at arrival")
QUEUE_DEPTH = declare(
    "queue_depth", "requests", (MODEL,), "at dispatch: requests that still wait for the model", exported=False
)
BATCH_SIZE = declare("batch_size", "requests", (MODEL,), "at dispatch")
QUEUE_FULL_DROPS = declare("queue_full_drops", "1", _ALL, "a request was dropped because the queue was full")
REQUESTS_REJECTED = declare(
    "requests_rejected",
    "1",
    _ALL,
    "refused for another reason: draining, not accepted, client disconnected (then without client)",
)
REQUESTS_EXPIRED = declare(
    "requests_expired", "1", _BOTH, "waited longer than its time to live, or could not meet its deadline"
)
REQUESTS_SUPERSEDED = declare("requests_superseded", "1", _BOTH, "replaced by a newer observation")
REQUESTS_OUTDATED = declare(
    "requests_outdated", "1", _BOTH, "the robot of a request that waits was asked for a newer observation"
)
RESULTS_REPLACED = declare(
    "results_replaced", "1", _BOTH, "a result that waited for its robot's link was replaced by a newer one, unsent"
)
REQUESTS_REFUSED = declare(
    "requests_refused",
    "1",
    (MODEL,),
    "a request ended without a result, and not as a newer one took its place or its robot left; each is counted by "
    "its cause too, in one of the metrics around this one",
)
DISPATCH_ERRORS = declare("dispatch_errors", "1", _ALL, "the model failed or is unknown")
DISPATCH_RETRIES = declare("dispatch_retries", "1", _BOTH, "a failed request was queued again")
REQUESTS_HANDED_OVER = declare(
    "requests_handed_over", "1", _BOTH, "the active version was given a request, as the call of another took too long"
)
RESULTS_DROPPED = declare(
    "results_dropped", "1", (MODEL,), "a call ended with a result after another version had been given its request"
)
DEADLINE_MISSES = declare(
    "deadline_misses",
    "1",
    _BOTH,
    "a result was sent, or applied by its robot, after its deadline, or none was sent (`requests_unanswered`)",
)
REQUESTS_UNANSWERED = declare(
    "requests_unanswered",
    "1",
    _BOTH,
    "a request expired, or ended without a result while its robot had got none for a second and its budget",
)
RESPONSES_SERVED = declare("responses_served", "1", _BOTH, "a result was sent")
INVALIDATION_COUNT = declare(
    "invalidation_count",
    "1",
    (CLIENT,),
    "a response was invalidated: its request was refused, or it could not be delivered",
)
SEND_ERRORS = declare(
    "send_errors",
    "1",
    (CLIENT, KIND, ERROR),
    "a message to a client could not be sent; kind: result (its request ends by that) or refusal (counted as such too)",
)
HANDSHAKE_FAILURES = declare("handshake_failures", "1", (ERROR,), "a connection was refused before it was established")
OBSERVATION_ERRORS = declare(
    "observation_errors",
    "1",
    _ALL,
    "a message was malformed (then without model), or an image or the structure of its values could not be read",
)
ACTIVE_CLIENTS = declare(
    "active_clients", "clients", (), "a client connected or disconnected: number of connected clients", exported=False
)
MODEL_STATE_CHANGES = declare(
    "model_state_changes",
    "1",
    (MODEL, STATE),
    "a model came to a state: loading, warming, ready, ...",
)
SHADOW_DIFFERENCE = declare(
    "shadow_difference",
    "action units",
    (MODEL, DIMENSION),
    "for every answer that was compared: how far the version in the shadow is from what the robot got, mean over steps",
)
CLIENT_OVERDUE = declare(
    "client_overdue", "1", _BOTH, "a client is overdue by its learned cadence; once for each silence"
)
CLIENT_DISCONNECTED = declare(
    "client_disconnected", "1", (CLIENT,), "silent for `response_tracking.disconnect_timeout_s`; once"
)
LEARNED_CADENCE_MS = declare("learned_cadence_ms", "ms", _BOTH, "at arrival: the client's learned period")
CADENCE_DEVIATION = declare(
    "cadence_deviation", "ms", _BOTH, "at arrival: this interval minus the period learned before it", exported=False
)
TIME_UNTIL_NEXT_MS = declare(
    "time_until_next_ms", "ms", _BOTH, "at arrival: until the next observation is due", exported=False
)
