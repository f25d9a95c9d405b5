"""From tensors in a payload to what a model sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from inferential.observation.slots import ObservationError, SlotInfo, slot_of, validate_slots
from inferential.proto import Observation, encoding_from_string
from inferential.proto.images import ImageError, decode
from inferential.proto.structure import STRUCTURE_KEY, restore
from inferential.proto.tensors import Buffer, view_checked


def is_encoded(slots: Sequence[SlotInfo] | None) -> bool:
    """Returns whether a tensor must be decoded before a model can see it, which takes milliseconds."""
    for slot in slots or ():  # noqa: SIM110 (half the cost of `any`, for every request)
        if slot.encoding != "raw":
            return True
    return False


def to_values(slots: Sequence[SlotInfo], metadata: Mapping[str, str], payload: Buffer) -> dict[str, Any]:
    """Returns what a model sees: arrays by key and strings by key, or what their structure makes of them.

    Raw tensors are views on the payload, writable where the payload is; images are decoded.

    Args:
        slots: the tensors, which were checked against this payload (`validate_slots`).
        metadata: the strings.
        payload: the bytes.

    Raises:
        ObservationError: an image is broken or does not match its tensor, or a structure that does not fit.
    """
    values: dict[str, Any] = {}
    for slot in slots:
        dtype = slot.numpy_dtype
        if slot.encoding == "raw":
            values[slot.key] = view_checked(payload, dtype, slot.shape, slot.byte_offset)
            continue
        data = memoryview(payload)[slot.byte_offset : slot.byte_offset + slot.byte_length]
        try:
            values[slot.key] = decode(data, encoding_from_string(slot.encoding), dtype, slot.shape)
        except ImageError as error:
            raise ObservationError(f"tensor {slot.key!r}: {error}") from error
    if metadata:
        values.update(metadata)
        if STRUCTURE_KEY in metadata:
            try:
                return restore(values)
            except ValueError as error:
                raise ObservationError(str(error)) from error
    return values


def read_slots(envelope: Buffer, payload_size: int) -> tuple[list[SlotInfo], dict[str, str]]:
    """Returns slots and metadata of an envelope that was made within this process.

    Raises:
        ObservationError: as for `ObservationAssembler.decode`, without the limits of a configuration.
    """
    return slots_in(read_observation(envelope), payload_size)


def read_observation(envelope: Buffer) -> Observation:
    """Returns the message that an envelope is.

    Raises:
        ObservationError: it is none.
    """
    message = Observation()
    try:
        message.ParseFromString(bytes(envelope))
    except DecodeError as error:
        raise ObservationError(f"Failed to decode the envelope: {error}") from error
    return message


def slots_in(message: Observation, payload_size: int) -> tuple[list[SlotInfo], dict[str, str]]:
    """Returns slots and metadata of an observation; arguments and errors as `read_slots`."""
    slots = [slot_of(tensor) for tensor in message.tensors]
    validate_slots(slots, payload_size)
    return slots, dict(message.metadata)
