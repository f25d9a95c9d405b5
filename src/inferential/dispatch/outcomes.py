"""What a backend's call ends in: results, the errors that mean something to the server, and `DispatchResult`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inferential.errors import InferentialError, InvalidObservation
from inferential.observation.slots import ObservationError
from inferential.proto.tensors import Buffer
from inferential.replica.outcomes import BY_MODEL, Answer, Refused
from inferential.scheduler.request import InferenceRequest, Refusal

__all__ = [
    "MAX_REPLICAS_LOST",
    "REPLICA_LOST",
    "Answer",
    "BatchFailedError",
    "CallTimeout",
    "DispatchResult",
    "RemoteModelError",
    "ReplicaLost",
    "UnknownModelError",
    "WorkerDied",
    "refused_row",
]


class UnknownModelError(InferentialError, LookupError):
    """The backend has no model of that id."""


class ReplicaLost(InferentialError):
    """The replica of a call is gone or does not answer; another one may take the call.

    Args:
        text: what happened.
        ran: whether the call may have been running there, so that it may be the reason.
    """

    def __init__(self, text: str, *, ran: bool = False) -> None:
        super().__init__(text)
        self.ran = ran


REPLICA_LOST = ReplicaLost.__name__
"""Cause of a refusal that the model is not to blame for."""
MAX_REPLICAS_LOST = 2
"""A request under which so many replicas have died is refused, and not tried on another one."""


class RemoteModelError(InferentialError):
    """A model in another process failed.

    Args:
        text: what it raised, its type in front.
        place: where, as `FailurePlaces` says it.
    """

    def __init__(self, text: str, place: str = "") -> None:
        super().__init__(text)
        self.place = place

    @property
    def cause(self) -> str:
        """The type of what it raised."""
        return str(self).partition(":")[0]


class BatchFailedError(InferentialError):
    """A call of a model that keeps state failed, and its rows are not run again.

    Args:
        text: why.
        place: where the model raised that, as `FailurePlaces` says it.
    """

    def __init__(self, text: str, place: str = "") -> None:
        super().__init__(text)
        self.place = place


def refused_row(refused: Refused) -> Exception:
    """Returns the error of a row that another process gave no result for."""
    if refused.status == "BATCH_FAILED":
        return BatchFailedError(refused.reason, refused.place)
    if refused.status != "INVALID_OBSERVATION":
        return RemoteModelError(refused.reason, refused.place)
    return InvalidObservation(refused.reason) if refused.cause == BY_MODEL else ObservationError(refused.reason)


class CallTimeout(InferentialError):
    """A call took longer than `call_timeout_ms`."""


class WorkerDied(InferentialError):
    """The process of a model ended while it ran an observation."""


@dataclass(slots=True)
class DispatchResult:
    """What became of one request in the backend: frames of a response, or a refusal.

    Attributes:
        request: whose result it is.
        latency_ms: how long the model's call took.
        response_id: the name of the response.
        envelope, payload: its frames, empty where there is no result.
        values: the result itself, arrays and strings by key; None where there is none.
        refusal: why there is none.
    """

    request: InferenceRequest
    latency_ms: float
    response_id: str = ""
    envelope: bytes = b""
    payload: Buffer = b""
    values: Mapping[str, Any] | None = None
    refusal: Refusal | None = None

    @property
    def client_id(self) -> str:
        """Who asked."""
        return self.request.client_id

    @property
    def identity(self) -> bytes:
        """The ZeroMQ routing id that the answer goes to."""
        return self.request.identity

    @property
    def success(self) -> bool:
        """Whether there is a result."""
        return self.refusal is None

    @property
    def error(self) -> str | None:
        """Why there is none."""
        return None if self.refusal is None else self.refusal.reason
