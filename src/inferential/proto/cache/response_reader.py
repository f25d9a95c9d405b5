"""Responses of which the constant part was read before.

A response of this line is a constant part, which names client, model and tensors, and then what is new
(`templates.response_part` writes it so). A response in any other form is read whole each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from inferential.proto import inferential_pb2 as pb
from inferential.proto.cache.counts import CacheCounts
from inferential.proto.dtypes import dtype_to_numpy
from inferential.proto.fields import constant_response_values, read_constant_response, write_constant
from inferential.proto.messages import Response, parse_response, read_parsed
from inferential.proto.tensors import Buffer, view_checked

if TYPE_CHECKING:
    from typing_extensions import Self

_MAX_PARTS = 4  # one for each model and form of its results
_MAX_PART_BYTES = 2048


class ResponseReader:
    """Reads the responses of a connection; gives what `messages.read_response` gives.

    Args:
        counts: where hits and misses are counted.
    """

    def __init__(self, counts: CacheCounts | None = None) -> None:
        self.counts: CacheCounts = CacheCounts() if counts is None else counts
        self._parts: list[_CachedPart] = []  # newest first

    def __len__(self) -> int:
        """Returns the number of constant parts that are cached."""
        return len(self._parts)

    def read(self, envelope: Buffer, payload: Buffer) -> Response:
        """Returns what a server sent.

        Raises:
            ValueError: the envelope is not a response, or a tensor does not fit its shape or the payload.
        """
        if isinstance(envelope, bytes):
            for cached in self._parts:
                if envelope.startswith(cached.part):
                    response = cached.read(envelope, payload)
                    if response is not None:
                        self.counts.hits += 1
                        return response
        self.counts.misses += 1
        message = parse_response(envelope)
        part = _CachedPart.of(message, envelope) if isinstance(envelope, bytes) else None
        response = read_parsed(message, payload)
        if part is not None:
            self._parts = [part, *self._parts[: _MAX_PARTS - 1]]
        return response


class _CachedPart:
    """The constant part of a response that was read whole, and what it says."""

    __slots__ = ("_constant", "_payload_end", "_size", "_tensors", "part")

    def __init__(self, part: bytes, message: pb.ModelResponse) -> None:
        self.part = part
        self._size = len(part)
        self._constant = read_constant_response(message)
        self._tensors = [
            (tensor.key, dtype_to_numpy(tensor.dtype), tuple(tensor.shape), tensor.byte_offset)
            for tensor in message.tensors
        ]
        self._payload_end = max((tensor.byte_offset + tensor.byte_length for tensor in message.tensors), default=0)

    @classmethod
    def of(cls, message: pb.ModelResponse, envelope: bytes) -> Self | None:
        """Returns the part of an envelope that repeats; None where it does not begin with one."""
        if any(tensor.encoding != pb.RAW for tensor in message.tensors):
            return None
        constant = pb.ModelResponse(tensors=message.tensors)
        write_constant(constant, read_constant_response(message))
        part = constant.SerializeToString()
        return cls(part, message) if len(part) <= _MAX_PART_BYTES and envelope.startswith(part) else None

    def read(self, envelope: bytes, payload: Buffer) -> Response | None:
        """Returns a response that begins with this part; None where it has to be read whole."""
        try:
            message = pb.ModelResponse.FromString(envelope[self._size :])
        except DecodeError:
            return None
        if message.tensors or any(constant_response_values(message)) or len(payload) < self._payload_end:
            return None
        values: dict[str, Any] = {}
        for key, dtype, shape, offset in self._tensors:
            values[key] = view_checked(payload, dtype, shape, offset)
        if message.metadata:
            values.update(message.metadata)
        return Response(message, self._constant, values)
