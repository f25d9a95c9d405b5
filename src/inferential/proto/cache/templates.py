"""Envelopes of observations and results from templates: what repeats is serialized once.

Only the timestamps within the tensors of an observation lie in the middle of the constant part. As varints they take
nine bytes from 1972 to 2262, so the bytes around them stay as they are.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from inferential.proto import inferential_pb2 as pb
from inferential.proto.cache.counts import CacheCounts
from inferential.proto.fields import ConstantFields, ConstantResponseFields, write_constant
from inferential.proto.tensors import EncodedImage, Payload, Tensors, describe, pack, pieces

Signature = tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]
"""What an envelope says of its tensors: key, dtype and shape of each."""


class Signed(Protocol):
    """What has a signature, such as the packing of arrays, and is equal to itself alone."""

    signature: Signature

    def __hash__(self) -> int: ...


STAMP_BYTES = 9
"""The length of a timestamp as a varint, from 1972 to 2262."""
STAMPS = range(2**56, 2**63)
"""The timestamps of that length, in nanoseconds."""
_REQUEST_ID_TAG = b"\x80\x01"  # of a response: field 16, a varint
_TWO_BYTES = 2**14 - 1  # the largest number that takes two bytes as a varint
_MAX_TEMPLATES = 16  # of one handle: a robot's observations have one form, or a few


def signature_of(tensors: Tensors) -> Signature | None:
    """Returns the signature; None where an image is compressed, whose size is new each time."""
    signature = []
    for key, value in tensors.items():
        if isinstance(value, EncodedImage):
            return None
        signature.append((key, value.dtype, value.shape))
    return tuple(signature)


def stamp_of(timestamp_ns: int) -> bytes:
    """Returns a timestamp as a varint."""
    return pb.Tensor(timestamp_ns=timestamp_ns).SerializeToString()[1:]


@lru_cache(maxsize=4096)
def response_part(
    client_id: str, model_id: str, protocol_version: int, model_version: str, tensors: Signature | Signed
) -> bytes:
    """Returns the constant part of a result's envelope.

    Args:
        client_id, model_id, protocol_version, model_version: its fields.
        tensors: their signature, or what has it and is found by itself, which takes a tenth of the time.

    Raises:
        ValueError: naming the key of a dtype that the wire does not have, or the key itself.
    """
    message = pb.ModelResponse()
    write_constant(message, ConstantResponseFields(client_id, model_id, protocol_version, model_version))
    describe(message.tensors, tensors if isinstance(tensors, tuple) else tensors.signature)
    return message.SerializeToString()


@lru_cache(maxsize=4096)
def refusal_part(status: str, reason: str, cause: str, serve_interval_ms: float) -> bytes:
    """Returns what follows the request id in the envelope of a refusal: in an overload, the same again and again."""
    # A model's message may hold invalid Unicode: the name of a file, as Python passes it on.
    text = reason.encode(errors="replace").decode()
    message = pb.ModelResponse(status=status, reason=text, cause=cause, serve_interval_ms=serve_interval_ms)
    return message.SerializeToString()


def request_id_field(request_id: int) -> bytes:
    """Returns a response's field `request_id` as protobuf writes it; nothing where it is 0."""
    if request_id > _TWO_BYTES:  # of a robot's ids all but the lowest bits stay the same for a while
        low = bytes((request_id & 0x7F | 0x80, request_id >> 7 & 0x7F | 0x80))
        return _REQUEST_ID_TAG + low + _varint(request_id >> 14)
    return _REQUEST_ID_TAG + _varint(request_id) if request_id else b""


@lru_cache(maxsize=4096)
def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


class ObservationTemplate:
    """The constant part of an observation's envelope, with gaps for the timestamps of its tensors.

    Args:
        message: an observation without its varying fields; its tensors all have the timestamp.
        timestamp_ns: the timestamp, in nanoseconds.
    """

    __slots__ = ("_parts",)

    def __init__(self, message: pb.Observation, timestamp_ns: int) -> None:
        self._parts: list[bytes] | None = None
        if timestamp_ns in STAMPS:
            parts = message.SerializeToString().split(stamp_of(timestamp_ns))
            # One more than there are tensors, unless a text happens to hold the same nine bytes.
            self._parts = parts if len(parts) == len(message.tensors) + 1 else None

    def envelope(self, timestamp_ns: int, varying: bytes) -> bytes | None:
        """Returns the envelope of an observation; None where it has to be serialized whole.

        Args:
            timestamp_ns: the observation's timestamp.
            varying: its varying fields, serialized; the timestamp comes first.
        """
        if self._parts is None or timestamp_ns not in STAMPS:
            return None
        return varying[1 : 1 + STAMP_BYTES].join(self._parts) + varying


class ObservationWriter:
    """Writes the observations of one model handle, from templates where it can.

    Args:
        constant: the fields that all of them have, as they stand on the wire.
        counts: where hits and misses are counted.
    """

    def __init__(self, constant: ConstantFields, counts: CacheCounts) -> None:
        self._constant = pb.Observation()
        write_constant(self._constant, constant)
        self._counts = counts
        self._templates: dict[Signature, ObservationTemplate] = {}

    def write(
        self, message: pb.Observation, timestamp_ns: int, tensors: Tensors, signature: Signature | None
    ) -> tuple[bytes, Payload]:
        """Returns the envelope and payload of an observation.

        Args:
            message: its varying fields; changed where it is serialized whole.
            timestamp_ns: the observation's timestamp, also that of its tensors.
            tensors: arrays and compressed images.
            signature: of the tensors; None where an image is compressed.

        Raises:
            ValueError: naming the key of a dtype that the wire does not have, or the key itself.
        """
        template = None if signature is None else self._templates.get(signature)
        if template is not None:
            envelope = template.envelope(timestamp_ns, message.SerializeToString())
            if envelope is not None:
                self._counts.hits += 1
                return envelope, pieces(tensors)
        self._counts.misses += 1
        if signature is None:
            message.MergeFrom(self._constant)
            payload = pack(message.tensors, tensors, timestamp_ns)
            return message.SerializeToString(), payload
        if template is None:
            template = self._new_template(timestamp_ns, signature)
            envelope = template.envelope(timestamp_ns, message.SerializeToString())
            if envelope is not None:  # in the form of those to follow, which the reader may cache
                return envelope, pieces(tensors)
        message.MergeFrom(self._constant)
        describe(message.tensors, signature, timestamp_ns)
        return message.SerializeToString(), pieces(tensors)

    def _new_template(self, timestamp_ns: int, signature: Signature) -> ObservationTemplate:
        message = pb.Observation()
        message.CopyFrom(self._constant)
        describe(message.tensors, signature, timestamp_ns)
        if len(self._templates) >= _MAX_TEMPLATES:
            self._templates.clear()
        template = self._templates[signature] = ObservationTemplate(message, timestamp_ns)
        return template
