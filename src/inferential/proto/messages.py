"""Observations and responses, from values to frames and back.

It neither sends nor checks: what comes from outside is checked by `inferential.observation` on the server, and
read with `read_response` on a robot.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from inferential.proto import inferential_pb2 as pb
from inferential.proto.cache.templates import Signature, response_part, signature_of
from inferential.proto.dtypes import dtype_to_numpy
from inferential.proto.fields import CONSTANT_RESPONSE, ConstantResponseFields, read_constant_response, write_constant
from inferential.proto.images import decode
from inferential.proto.tensors import Array, Buffer, EncodedImage, Tensors, gather, pack, view

PROTOCOL_VERSION = 2
"""The version of the protocol that this release writes; 0 in messages of the 0.1 and 1.x lines."""

_CONSTANT_IN_MESSAGE = ("tensors", *((row.path or name).partition(".")[0] for name, row in CONSTANT_RESPONSE.items()))

Content = tuple[Tensors, Mapping[str, str], Signature | None]
"""What a message holds for its reader: tensors, strings, and the tensors' signature where no image is compressed."""


@dataclass(slots=True)  # not frozen, which would double the time that it takes to make one
class ResponseTiming:
    """Where the time of one request went on the server, in milliseconds."""

    queue_ms: float
    """From arrival to dispatch."""
    inference_ms: float
    """From dispatch to the model's answer."""
    server_ms: float
    """From arrival to the answer's departure."""
    batch_size: int
    """Rows that ran with this one, itself included."""


@dataclass(slots=True)  # not frozen, which would double the time that it takes to make one
class Response:
    """A response as a robot reads it: a result where the message's status is OK, else an error with its reason.

    Attributes:
        message: the fields that are new with each response; those of `constant` and the tensors are not in it.
        constant: the fields that are the same in all responses of the model to this client.
        values: arrays and strings by key.
    """

    message: pb.ModelResponse
    constant: ConstantResponseFields
    values: dict[str, Any]

    @property
    def model_id(self) -> str:
        """The model that was asked."""
        return self.constant.model_id

    @property
    def model_version(self) -> str:
        """The version of the model that made the result; empty where the server does not know it."""
        return self.constant.model_version

    @property
    def timing(self) -> ResponseTiming | None:
        """Where the time went on the server; None from a server of the 1.x line."""
        return timing_of(self.message)


def timing_of(message: pb.ModelResponse) -> ResponseTiming | None:
    """What a response says of where the time went on the server; None from one of the 1.x line."""
    if not message.HasField("timing"):
        return None
    told = message.timing
    return ResponseTiming(told.queue_ms, told.inference_ms, told.server_ms, told.batch_size)


def split_values(values: Mapping[str, Any]) -> tuple[Tensors, Mapping[str, str]]:
    """Arrays and compressed images apart from strings.

    Raises:
        TypeError: naming the key of a value that is neither.
    """
    tensors: dict[str, Array | EncodedImage] = {}
    metadata: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, (np.ndarray, EncodedImage)):  # a union of types takes three times as long
            tensors[key] = value
        elif isinstance(value, str):
            metadata[key] = value
        else:
            is_near = isinstance(value, int | float | list | tuple | np.generic)
            raise TypeError(
                f"{key}: expected np.ndarray (a tensor) or str (metadata), got {type(value).__name__}"
                + ("; np.asarray(...) makes it one" if is_near else "")
            )
    return tensors, metadata


def arrays_alone(values: Mapping[str, Any]) -> Content | None:
    """The content that almost all messages have; None where there is anything but arrays."""
    signature = []
    for key, value in values.items():
        if not isinstance(value, np.ndarray):
            return None
        signature.append((key, value.dtype, value.shape))
    return values, {}, tuple(signature)


def content_of(values: Mapping[str, Any]) -> Content:
    """What a message holds that carries these values.

    Raises:
        TypeError: as `split_values`.
    """
    return arrays_alone(values) or mixed_content(values)


def mixed_content(values: Mapping[str, Any]) -> Content:
    """The same, of values that are not arrays alone.

    Raises:
        TypeError: as `split_values`.
    """
    tensors, metadata = split_values(values)
    return tensors, metadata, signature_of(tensors)


def put_metadata(target: MutableMapping[str, str], metadata: Mapping[str, str]) -> None:
    """Copies strings into a message.

    Raises:
        ValueError: naming the key of a string that is no valid Unicode.
    """
    for key, value in metadata.items():
        try:
            target[key] = value
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error


def write_response(
    *,
    client_id: str,
    model_id: str,
    response_id: str,
    timestamp_ns: int,
    request_id: int,
    values: Mapping[str, Any],
    timing: ResponseTiming,
    serve_interval_ms: float = 0.0,
    model_version: str = "",
) -> tuple[bytes, Buffer]:
    """Envelope and payload of a result.

    Raises:
        TypeError, ValueError: for a value that the wire cannot carry, naming its key.
    """
    tensors, metadata, signature = content_of(values)
    message = pb.ModelResponse()
    message.response_id = response_id
    message.timestamp_ns = timestamp_ns
    message.inference_latency_ms = timing.inference_ms
    message.request_id = request_id
    if serve_interval_ms:
        message.serve_interval_ms = serve_interval_ms
    told = message.timing
    told.queue_ms = timing.queue_ms
    told.inference_ms = timing.inference_ms
    told.server_ms = timing.server_ms
    told.batch_size = timing.batch_size
    if metadata:
        put_metadata(message.metadata, metadata)
    if signature is not None:
        part = response_part(client_id, model_id, PROTOCOL_VERSION, model_version, signature)
        return part + message.SerializeToString(), gather(tensors)
    write_constant(message, ConstantResponseFields(client_id, model_id, PROTOCOL_VERSION, model_version))
    payload = pack(message.tensors, tensors)
    return message.SerializeToString(), payload


def write_refusal(
    *, client_id: str, model_id: str, request_id: int, status: str, reason: str, serve_interval_ms: float = 0.0
) -> bytes:
    """Envelope of a response that brings no result; its payload is empty. `status` is the name of a Status."""
    message = pb.ModelResponse(
        request_id=request_id,
        status=status,
        # A model's message may hold invalid Unicode: the name of a file, as Python passes it on.
        reason=reason.encode(errors="replace").decode(),
        serve_interval_ms=serve_interval_ms,
    )
    write_constant(message, ConstantResponseFields(client_id, model_id, PROTOCOL_VERSION, ""))
    return message.SerializeToString()


def read_response(envelope: Buffer, payload: Buffer) -> Response:
    """What a server sent.

    Raises:
        ValueError: where it is no response, or a tensor is not what it says or lies outside the payload.
    """
    return read_parsed(parse_response(envelope), payload)


def parse_response(envelope: Buffer) -> pb.ModelResponse:
    """The envelope of a response.

    Raises:
        ValueError: it is none.
    """
    message = pb.ModelResponse()
    try:
        message.ParseFromString(envelope if isinstance(envelope, bytes) else bytes(envelope))
    except DecodeError as error:
        raise ValueError(f"no response: {error}") from error
    return message


def read_parsed(message: pb.ModelResponse, payload: Buffer) -> Response:
    """What a server sent, of its envelope and the payload that came with it.

    Raises:
        ValueError: where a tensor is not what it says or lies outside the payload.
    """
    values: dict[str, Any] = {}
    for tensor in message.tensors:
        dtype = dtype_to_numpy(tensor.dtype)
        shape = tuple(tensor.shape)
        if tensor.encoding in (pb.JPEG, pb.PNG):
            data = memoryview(payload)[tensor.byte_offset : tensor.byte_offset + tensor.byte_length]
            values[tensor.key] = decode(data, tensor.encoding, dtype, shape)
        else:
            values[tensor.key] = view(payload, dtype, shape, tensor.byte_offset, tensor.byte_length)
    if message.metadata:
        values.update(message.metadata)
    constant = read_constant_response(message)
    for name in _CONSTANT_IN_MESSAGE:  # the same message on the fast path and on this one
        message.ClearField(name)
    return Response(message, constant, values)
