"""The rows of a call and of its result: descriptions of tensors, and the payloads that hold them.

A description is a serialized `Observation` or `ModelResponse` of which only tensors, strings and status count. The
same ones come again and again, so each end remembers what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from inferential.proto import inferential_pb2 as pb
from inferential.proto.dtypes import dtype_from_numpy, dtype_to_numpy
from inferential.proto.images import decode
from inferential.proto.messages import put_metadata, split_values
from inferential.proto.packed import PackedArrays, Packing
from inferential.proto.seen import SEEN_KEY, Seen
from inferential.proto.structure import STRUCTURE_KEY, restore
from inferential.proto.tensors import Buffer, gather, pack, view_checked
from inferential.replica.outcomes import Answer, Refused

_REMEMBERED = 1024
_LONGEST_BYTES = 2048  # of what is remembered
_PLACE_KEY = "place"

RawTensor = tuple[str, np.dtype[Any], tuple[int, ...], int]
"""Key, dtype, shape and offset of a tensor in a payload."""


class Layout:
    """What a description says: where each tensor lies in the payload, and the strings."""

    __slots__ = ("_encoded", "_end", "_packing", "_raw", "_strings", "_structured", "seen")

    def __init__(self, tensors: Any, strings: Mapping[str, str], *, structured: bool) -> None:
        self._raw: list[RawTensor] = []
        self._encoded: list[tuple[str, int, np.dtype[Any], tuple[int, ...], int, int]] = []
        self._strings = dict(strings)
        self._structured = structured
        self._end = 0
        self.seen: Seen | None = None
        """When it was seen, where the model wants to know."""
        for tensor in tensors:
            dtype, shape, offset = dtype_to_numpy(tensor.dtype), tuple(tensor.shape), tensor.byte_offset
            self._end = max(self._end, offset + tensor.byte_length)
            if tensor.encoding in (pb.JPEG, pb.PNG):
                self._encoded.append((tensor.key, tensor.encoding, dtype, shape, offset, tensor.byte_length))
            else:
                self._raw.append((tensor.key, dtype, shape, offset))
        plain = not self._encoded and not structured and not strings
        self._packing = Packing.of(self._raw) if plain else None

    @property
    def raw(self) -> Sequence[RawTensor] | None:
        """The tensors, where values are these and strings alone: no images to decode, nothing nested."""
        return None if self._encoded or self._structured or self.seen is not None else self._raw

    @property
    def strings(self) -> Mapping[str, str]:
        """The strings by key."""
        return self._strings

    def result(self, payload: Buffer) -> Mapping[str, Any]:
        """Returns what `values` does; arrays alone, as most results are, stay packed until one is looked at.

        Raises:
            ValueError, ImageError: as `values`.
        """
        packing = self._packing
        if packing is not None and len(payload) == packing.size:
            return PackedArrays(packing, payload)
        return self.values(payload)

    def values(self, payload: Buffer) -> dict[str, Any]:
        """Returns arrays and strings by key: views on the payload, and decoded images; nested where they were sent so.

        Raises:
            ValueError: the payload is too short, or the structure does not fit its values.
            ImageError: an image is broken.
        """
        if len(payload) < self._end:
            raise ValueError(f"a payload of {len(payload)} bytes, its tensors take {self._end}")
        values: dict[str, Any] = {}
        for key, dtype, shape, offset in self._raw:
            values[key] = view_checked(payload, dtype, shape, offset)
        for key, encoding, dtype, shape, offset, length in self._encoded:
            values[key] = decode(memoryview(payload)[offset : offset + length], encoding, dtype, shape)
        if self._strings:
            values.update(self._strings)
        values = restore(values) if self._structured else values
        if self.seen is not None:
            values.update(self.seen.values())
        return values


class RowWriter:
    """Describes rows; remembers the descriptions of those that it has seen.

    It may be used by one thread.
    """

    def __init__(self) -> None:
        self._of_slots: dict[int, tuple[Sequence[Any], bytes]] = {}
        self._of_values: dict[tuple[Any, ...], bytes] = {}

    def observation(self, slots: Sequence[Any], metadata: Mapping[str, str]) -> bytes:
        """Returns the description of an observation's payload.

        Args:
            slots: the tensors, as `SlotInfo`; the same list again is not read again.
            metadata: the strings.
        """
        known = self._of_slots.get(id(slots))
        if known is not None and known[0] is slots:
            part = known[1]
        else:
            part = _describe(slots)
            if len(self._of_slots) >= _REMEMBERED:
                self._of_slots.clear()
            self._of_slots[id(slots)] = slots, part
        return part + pb.Observation(metadata=metadata).SerializeToString() if metadata else part

    def values(self, values: Mapping[str, Any]) -> tuple[bytes, Buffer]:
        """Returns description and payload of arrays and strings by key.

        Raises:
            TypeError, ValueError: naming the key of a value that the wire does not carry.
        """
        signature = []
        for key, value in values.items():
            if not isinstance(value, np.ndarray):
                return self._mixed(values)
            signature.append((key, value.dtype, value.shape))
        known = tuple(signature)
        description = self._of_values.get(known)
        if description is None:
            message = pb.ModelResponse()
            payload = pack(message.tensors, values)
            description = message.SerializeToString()
            if len(self._of_values) >= _REMEMBERED:
                self._of_values.clear()
            self._of_values[known] = description
            return description, payload
        return description, gather(values)

    def _mixed(self, values: Mapping[str, Any]) -> tuple[bytes, Buffer]:
        message = pb.ModelResponse()
        tensors, metadata = split_values(values)
        payload = pack(message.tensors, tensors)
        put_metadata(message.metadata, metadata)
        return message.SerializeToString(), payload


class RowReader:
    """Reads rows; remembers what their descriptions say.

    Args:
        message: `pb.Observation` in a replica, `pb.ModelResponse` in a server.
    """

    def __init__(self, message: Any) -> None:
        self._message = message
        self._known: dict[bytes, Layout] = {}

    def layout(self, description: bytes | memoryview) -> Layout | Refused:
        """Returns what a description says.

        Raises:
            ValueError: it is no description.
        """
        if type(description) is not bytes:
            description = bytes(description)
        layout = self._known.get(description)
        if layout is not None:
            return layout
        message = self._message()
        try:
            message.ParseFromString(description)
        except Exception as error:  # DecodeError is a class of either implementation of protobuf
            raise ValueError(f"no description of a row: {error}") from error
        if self._message is pb.ModelResponse and message.status != pb.OK:
            place = message.metadata.get(_PLACE_KEY, "")
            return Refused(pb.Status.Name(message.status), message.reason, place, message.cause)
        # What a model returns stays flat on its way to the robot; what it is given does not.
        structured = self._message is pb.Observation and STRUCTURE_KEY in message.metadata
        seen = message.metadata.pop(SEEN_KEY, "") if SEEN_KEY in message.metadata else ""
        layout = Layout(message.tensors, message.metadata, structured=structured)
        if seen:
            layout.seen = Seen.from_text(seen)
        elif len(description) <= _LONGEST_BYTES:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[description] = layout
        return layout


def write_refusal(status: str, reason: str, place: str = "", cause: str = "") -> bytes:
    """Returns the description of a row without a result: what `Refused` has."""
    metadata = {_PLACE_KEY: _valid(place)} if place else {}
    return pb.ModelResponse(status=status, reason=_valid(reason), metadata=metadata, cause=cause).SerializeToString()


def _valid(text: str) -> str:
    """Returns a text without what is no valid Unicode, which a reason may hold."""
    return text.encode(errors="replace").decode()


def _describe(slots: Sequence[Any]) -> bytes:
    message = pb.Observation()
    for slot in slots:
        message.tensors.add(
            key=slot.key,
            dtype=dtype_from_numpy(slot.numpy_dtype),
            shape=slot.shape,
            byte_offset=slot.byte_offset,
            byte_length=slot.byte_length,
            encoding=_ENCODINGS[slot.encoding],
        )
    return message.SerializeToString()


_UNSAID = "", "", ""  # no version, of a model without state
_ENCODINGS = {"raw": pb.RAW, "jpeg": pb.JPEG, "png": pb.PNG}


def read_outcomes(reader: RowReader, frames: Sequence[bytes | memoryview]) -> list[Answer | Refused]:
    """Returns the rows of a result, whose frames are those of `wire.RESULT`."""
    version, _, fresh = bytes(frames[2]).decode().partition("\0") if frames[2] else _UNSAID
    outcomes: list[Answer | Refused] = []
    for at in range(3, len(frames), 2):
        layout = reader.layout(frames[at])
        if isinstance(layout, Layout):
            values = layout.result(frames[at + 1])
            outcomes.append(Answer(values, version, fresh[(at - 3) // 2] == "1") if fresh else Answer(values, version))
        else:
            outcomes.append(layout)
    return outcomes
