"""Observations and responses, from values to frames and back.

Observations that come from outside are checked by `inferential.observation`; responses by `read_response`.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from inferential.proto import inferential_pb2 as pb
from inferential.proto.cache.templates import (
    Signature,
    refusal_part,
    request_id_field,
    response_part,
    signature_of,
)
from inferential.proto.dtypes import dtype_to_numpy
from inferential.proto.fields import CONSTANT_RESPONSE, ConstantResponseFields, read_constant_response
from inferential.proto.images import decode
from inferential.proto.packed import PackedArrays
from inferential.proto.tensors import Array, Buffer, EncodedImage, Tensors, gather, pack, view

PROTOCOL_VERSION = 2
"""The version of the protocol that this release writes; 0 in messages of the 0.1 and 1.x lines."""

MAX_CANCELLED = 4096
"""Requests that one message may take back or ask for. Each may be answered by a refusal."""

_CONSTANT_IN_MESSAGE = ("tensors", *((row.path or name).partition(".")[0] for name, row in CONSTANT_RESPONSE.items()))

Content = tuple[Tensors, Mapping[str, str], Signature | None]
"""What a message carries: tensors, strings, and the tensors' signature, None where an image is compressed."""


@dataclass(slots=True)  # not frozen, which would double the time that it takes to make one
class ResponseTiming:
    """The parts of a request's time on the server, in milliseconds."""

    queue_ms: float
    """From arrival to dispatch."""
    inference_ms: float
    """From dispatch to the model's result."""
    server_ms: float
    """From arrival until the response is sent."""
    batch_size: int
    """Requests in the model's call, this one included."""


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
        """The parts of its time on the server; None from a server of the 1.x line."""
        return timing_of(self.message)


def timing_of(message: pb.ModelResponse) -> ResponseTiming | None:
    """Returns the timing of a response; None from a server of the 1.x line."""
    if not message.HasField("timing"):
        return None
    timing = message.timing
    return ResponseTiming(timing.queue_ms, timing.inference_ms, timing.server_ms, timing.batch_size)


def masked(key: str) -> TypeError:
    """Returns the error of a masked array, of which what the mask hides would be sent."""
    return TypeError(f"{key}: a mask cannot be sent, got a masked array; value.filled(...) makes an array of it")


def split_values(values: Mapping[str, Any]) -> tuple[Tensors, Mapping[str, str]]:
    """Returns arrays and compressed images, and strings.

    Raises:
        TypeError: a value is of another type; the message names its key.
    """
    tensors: dict[str, Array | EncodedImage] = {}
    metadata: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, (np.ndarray, EncodedImage)):  # a union of types takes three times as long
            if type(value) is not np.ndarray and np.ma.is_masked(value):
                raise masked(key)
            tensors[key] = value
        elif isinstance(value, str):
            metadata[key] = value
        else:
            is_near = isinstance(value, int | float | list | tuple | np.generic) or hasattr(value, "__array__")
            raise TypeError(
                f"{key}: expected np.ndarray (a tensor) or str (metadata), got {type(value).__name__}"
                + ("; np.asarray(...) makes it one" if is_near else "")
            )
    return tensors, metadata


def arrays_alone(values: Mapping[str, Any]) -> Content | None:
    """Returns the content of a message of arrays alone, which almost all are; None where there is anything else."""
    signature = []
    for key, value in values.items():
        if type(value) is not np.ndarray:  # a subclass may hold more than can be sent
            return None
        signature.append((key, value.dtype, value.shape))
    return values, {}, tuple(signature)


def content_of(values: Mapping[str, Any]) -> Content:
    """Returns the content of a message that carries these values.

    Raises:
        TypeError: as for `split_values`.
    """
    return arrays_alone(values) or mixed_content(values)


def mixed_content(values: Mapping[str, Any]) -> Content:
    """Returns the content of a message whose values are not arrays alone.

    Raises:
        TypeError: as for `split_values`.
    """
    tensors, metadata = split_values(values)
    return tensors, metadata, signature_of(tensors)


def put_metadata(target: MutableMapping[str, str], metadata: Mapping[str, str]) -> None:
    """Copies strings into a message.

    Raises:
        ValueError: a string is not valid Unicode; the message names its key.
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
    execution_horizon: int = 0,
    fallback: str = "",
    session: str = "",
) -> tuple[bytes, Buffer]:
    """Returns the envelope and payload of a result.

    Raises:
        TypeError, ValueError: the wire cannot carry a value; the message names its key.
    """
    message = pb.ModelResponse()
    message.response_id = response_id
    message.timestamp_ns = timestamp_ns
    message.inference_latency_ms = timing.inference_ms
    message.request_id = request_id
    if serve_interval_ms:
        message.serve_interval_ms = serve_interval_ms
    if execution_horizon:
        message.execution_horizon = execution_horizon
    if session:
        message.session = session
    if fallback:
        message.fallback = fallback
    written = message.timing
    written.queue_ms = timing.queue_ms
    written.inference_ms = timing.inference_ms
    written.server_ms = timing.server_ms
    written.batch_size = timing.batch_size
    if type(values) is PackedArrays:
        part = response_part(client_id, model_id, PROTOCOL_VERSION, model_version, values.packing)
        return part + message.SerializeToString(), values.payload
    tensors, metadata, signature = arrays_alone(values) or mixed_content(values)
    if metadata:
        put_metadata(message.metadata, metadata)
    if signature is not None:
        part = response_part(client_id, model_id, PROTOCOL_VERSION, model_version, signature)
        return part + message.SerializeToString(), gather(tensors)
    message.MergeFromString(response_part(client_id, model_id, PROTOCOL_VERSION, model_version, ()))
    payload = pack(message.tensors, tensors)
    return message.SerializeToString(), payload


def write_refusal(
    *,
    client_id: str,
    model_id: str,
    request_id: int,
    status: str,
    reason: str,
    cause: str = "",
    serve_interval_ms: float = 0.0,
    turn_in_ms: float | None = None,
) -> bytes:
    """Returns the envelope of a response without a result; its payload is empty.

    Args:
        client_id: the robot.
        model_id: the model that it asked.
        request_id: of its observation.
        status: the name of a `Status`.
        reason: why, in words.
        cause: why, in one word.
        serve_interval_ms: the shortest interval at which the robot can be served; 0: no limit is known.
        turn_in_ms: with OUTDATED: when the request's turn comes.
    """
    part = response_part(client_id, model_id, PROTOCOL_VERSION, "", ())
    refusal = part + request_id_field(request_id) + refusal_part(status, reason, cause, serve_interval_ms)
    return refusal if turn_in_ms is None else refusal + pb.ModelResponse(turn_in_ms=turn_in_ms).SerializeToString()


def write_refusals(
    *,
    client_id: str,
    model_id: str,
    request_ids: Sequence[bytes],
    status: str,
    reason: str,
    cause: str = "",
    serve_interval_ms: float = 0.0,
) -> list[bytes]:
    """Returns what `write_refusal` does for each of several requests, by their fields (`request_id_field`)."""
    part = response_part(client_id, model_id, PROTOCOL_VERSION, "", ())
    rest = refusal_part(status, reason, cause, serve_interval_ms)
    return [part + request_id + rest for request_id in request_ids]


def read_response(envelope: Buffer, payload: Buffer) -> Response:
    """Returns the response in an envelope and its payload.

    Raises:
        ValueError: it is not a response, or a tensor does not fit its shape or the payload.
    """
    return read_parsed(parse_response(envelope), payload)


def parse_response(envelope: Buffer) -> pb.ModelResponse:
    """Returns the message in an envelope.

    Raises:
        ValueError: it is not a response.
    """
    message = pb.ModelResponse()
    try:
        message.ParseFromString(envelope if isinstance(envelope, bytes) else bytes(envelope))
    except DecodeError as error:
        raise ValueError(f"not a response: {error}") from error
    return message


def read_parsed(message: pb.ModelResponse, payload: Buffer) -> Response:
    """Returns the response of a parsed envelope and its payload; takes the constant fields out of `message`.

    Raises:
        ValueError: a tensor does not fit its shape or the payload.
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
