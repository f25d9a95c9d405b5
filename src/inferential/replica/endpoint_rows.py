"""The rows of an endpoint's calls: what comes from servers, and what goes back."""

from __future__ import annotations

import logging
from typing import Any

from inferential.dispatch.outcomes import Answer
from inferential.observation.slots import ObservationError
from inferential.proto.tensors import Buffer
from inferential.replica.shared import Place, ReplicasMemory
from inferential.replica.values import as_values
from inferential.replica.wire import InvalidRow, write_row
from inferential.scheduler.request import InferenceRequest

MODEL = "model"  # a replica has one
logger: logging.Logger = logging.getLogger("inferential.ray")


def seen(memory: ReplicasMemory | None, place: Place) -> Buffer:
    """Returns a payload in shared memory."""
    if memory is None:
        raise ValueError("it is in memory that this replica does not share")
    return memory.view(place)


def as_request(envelope: Buffer, payload: Buffer) -> InferenceRequest:
    """A row, as far as reading it is concerned; the server has checked it."""
    return InferenceRequest(
        client_id="",
        model_id=MODEL,
        identity=b"",
        envelope=envelope,
        payload=payload,
        received_at=0.0,
        urgency=0.0,
        steps_remaining=None,
        time_until_next=0.0,
        latency_budget_ms=0.0,
        priority=0,
    )


def written(outcome: Any) -> tuple[bytes, Buffer]:
    """Returns envelope and payload of one row's outcome."""
    try:
        if isinstance(outcome, Answer):
            outcome = outcome.values
        if isinstance(outcome, ObservationError):
            outcome = InvalidRow(outcome.reason)
        return write_row(outcome if isinstance(outcome, Exception) else as_values(outcome))
    except Exception as error:  # a result that the wire cannot carry, or that is not what it seems, fails alone
        return write_row(error)
