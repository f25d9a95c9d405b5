"""An observation whose every field was checked.

What becomes of it is the server's business.
"""

from __future__ import annotations

from dataclasses import dataclass

from inferential.observation.slots import SlotInfo
from inferential.proto.tensors import Buffer


@dataclass(slots=True)  # not frozen, which would double the time that it takes to make one
class DecodedObservation:
    """An observation whose every field was checked.

    Attributes:
        client_id, client_type, model_id: who asks which model.
        timestamp_ns: when it was made, by the client's clock; 0 where it did not tell.
        urgency: 0 to 1.
        priority: 0 is the highest.
        steps_remaining: actions that the client still has; None where it did not tell.
        slots: the tensors' places in the payload.
        metadata: its strings.
        envelope, payload: the frames.
        received_at: seconds of `time.monotonic()`.
        staleness_ms: its age on arrival by the client's clock, 0 where that cannot be told.
        request_id: the client's number for it, 0 from the 1.x line.
        latency_budget_ms: as told by the client, None where it did not.
        protocol_version: 0 from the 0.1 and 1.x lines.
        queue: a `QueueMode` of the wire.
        control_period_ms: how long one action of a chunk holds; None where the client did not tell.
        late: a `LateMode` of the wire.
    """

    client_id: str
    client_type: str
    model_id: str
    timestamp_ns: int
    urgency: float
    priority: int
    steps_remaining: int | None
    slots: list[SlotInfo]
    metadata: dict[str, str]
    envelope: Buffer
    payload: Buffer
    received_at: float
    staleness_ms: float
    request_id: int
    latency_budget_ms: float | None
    protocol_version: int
    queue: int
    control_period_ms: float | None
    late: int
