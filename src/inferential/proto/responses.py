"""Responses of which most was read before: what a server says of a model, it says in every answer.

A response of this line is a constant part, which names client, model and tensors, and then what is new
(`proto.templates` writes it so). Whoever sends another order of fields is read the long way each time.
"""

from __future__ import annotations

from typing import Any, Self

from google.protobuf.message import DecodeError

from inferential.proto import inferential_pb2 as pb
from inferential.proto.dtypes import dtype_to_numpy
from inferential.proto.messages import Response, parse_response, read_parsed, read_response, response_of
from inferential.proto.tensors import Buffer, view_checked

_REMEMBERED = 4  # constant parts: one for each model and form of its results
_LONGEST_BYTES = 2048  # of what is remembered


class ResponseReader:
    """Reads a connection's responses; gives what `read_response` would."""

    def __init__(self) -> None:
        self._known: list[_KnownPart] = []  # newest first

    def read(self, envelope: Buffer, payload: Buffer) -> Response:
        """What a server sent.

        Raises:
            ValueError: where it is no response, or a tensor is not what it says or lies outside the payload.
        """
        if not isinstance(envelope, bytes):
            return read_response(envelope, payload)
        for known in self._known:
            if envelope.startswith(known.part):
                response = known.read(envelope, payload)
                if response is not None:
                    return response
        message = parse_response(envelope)
        response = read_parsed(message, payload)
        part = _KnownPart.of(message, envelope)
        if part is not None:
            self._known = [part, *self._known[: _REMEMBERED - 1]]
        return response


class _KnownPart:
    """The constant part of a response that was sound, and what it says."""

    __slots__ = ("_end", "_model_id", "_model_version", "_tensors", "part")

    def __init__(self, part: bytes, message: pb.ModelResponse) -> None:
        self.part = part
        self._model_id = message.model_id
        self._model_version = message.model_version
        self._tensors = [
            (tensor.key, dtype_to_numpy(tensor.dtype), tuple(tensor.shape), tensor.byte_offset)
            for tensor in message.tensors
        ]
        self._end = max((tensor.byte_offset + tensor.byte_length for tensor in message.tensors), default=0)

    @classmethod
    def of(cls, message: pb.ModelResponse, envelope: bytes) -> Self | None:
        """What stays of an envelope that could be read; None where it is not made as those of this line are."""
        if any(tensor.encoding != pb.RAW for tensor in message.tensors):
            return None
        constant = pb.ModelResponse(
            client=message.client,
            model_id=message.model_id,
            protocol_version=message.protocol_version,
            model_version=message.model_version,
            tensors=message.tensors,
        )
        part = constant.SerializeToString()
        known = len(part) <= _LONGEST_BYTES and envelope.startswith(part)
        return cls(part, constant) if known else None

    def read(self, envelope: bytes, payload: Buffer) -> Response | None:
        """A response that begins with this part; None where it has to be read the long way."""
        try:
            news = pb.ModelResponse.FromString(envelope[len(self.part) :])
        except DecodeError:
            return None
        if news.tensors or news.model_id or news.model_version or len(payload) < self._end:
            return None
        values: dict[str, Any] = {}
        for key, dtype, shape, offset in self._tensors:
            values[key] = view_checked(payload, dtype, shape, offset)
        return response_of(news, self._model_id, self._model_version, values)
