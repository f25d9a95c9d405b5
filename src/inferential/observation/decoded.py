"""An observation of which every field was checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from inferential.observation.slots import SlotInfo
from inferential.proto.fields import ConstantFields, VaryingFields
from inferential.proto.tensors import Buffer

T = TypeVar("T")


class _Delegate(Generic[T]):
    """An attribute of one of the two groups of fields, under its own name."""

    def __init__(self, get: Callable[[DecodedObservation], T]) -> None:
        self._get = get

    def __get__(self, observation: DecodedObservation, kind: type[DecodedObservation]) -> T:
        return self._get(observation)


@dataclass(slots=True)  # not frozen, which would double the time that it takes to make one
class DecodedObservation:
    """An observation of which every field was checked.

    Attributes:
        constant: the fields that are the same in all observations of one model handle.
        varying: the fields that are new with each observation.
        slots: the tensors' places in the payload.
        envelope, payload: the frames.
        received_at: seconds of `time.monotonic()`.
        staleness_ms: its age on arrival by the client's wall clock, 0 where that is not known.
        misalignment_ms: how far the timestamps of its tensors lie apart; 0: within the limit.
    """

    constant: ConstantFields
    varying: VaryingFields
    slots: list[SlotInfo]
    envelope: Buffer
    payload: Buffer
    received_at: float
    staleness_ms: float
    misalignment_ms: float = 0.0

    client_id: ClassVar[_Delegate[str]] = _Delegate(lambda self: self.constant.client_id)
    client_type: ClassVar[_Delegate[str]] = _Delegate(lambda self: self.constant.client_type)
    model_id: ClassVar[_Delegate[str]] = _Delegate(lambda self: self.constant.model_id)
    latency_budget_ms: ClassVar[_Delegate[float | None]] = _Delegate(lambda self: self.constant.latency_budget_ms)
    protocol_version: ClassVar[_Delegate[int]] = _Delegate(lambda self: self.constant.protocol_version)
    queue: ClassVar[_Delegate[int]] = _Delegate(lambda self: self.constant.queue)
    control_period_ms: ClassVar[_Delegate[float | None]] = _Delegate(lambda self: self.constant.control_period_ms)
    late: ClassVar[_Delegate[int]] = _Delegate(lambda self: self.constant.late)
    timestamp_ns: ClassVar[_Delegate[int]] = _Delegate(lambda self: self.varying.timestamp_ns)
    urgency: ClassVar[_Delegate[float]] = _Delegate(lambda self: self.varying.urgency)
    steps_remaining: ClassVar[_Delegate[int | None]] = _Delegate(lambda self: self.varying.steps_remaining)
    metadata: ClassVar[_Delegate[dict[str, str]]] = _Delegate(lambda self: self.varying.metadata)
    priority: ClassVar[_Delegate[int]] = _Delegate(lambda self: self.varying.priority)
    request_id: ClassVar[_Delegate[int]] = _Delegate(lambda self: self.varying.request_id)
