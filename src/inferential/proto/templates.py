"""Envelopes of which most is known: what does not change from one message to the next is serialized once.

It decides nothing of what a message says; `proto.messages` and `client.session` do.

Concatenated protobuf messages are one message (proto3, "last one wins", repeated fields append): an envelope is its
constant part, made once for each client, model and set of tensors, and the serialization of what is new. Only the
timestamps within the tensors of an observation stand in the midst of the constant part. As varints they take nine
bytes from 1972 to 2262, so that the bytes around them stay as they are.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from inferential.proto import inferential_pb2 as pb
from inferential.proto.tensors import EncodedImage, Tensors, describe

Signature = tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]
"""What of tensors an envelope tells: key, dtype and shape of each."""

_NINE_BYTES = range(2**56, 2**63)


def signature_of(tensors: Tensors) -> Signature | None:
    """The signature; None where an image is compressed, whose size is new each time."""
    signature = []
    for key, value in tensors.items():
        if isinstance(value, EncodedImage):
            return None
        signature.append((key, value.dtype, value.shape))
    return tuple(signature)


@lru_cache(maxsize=4096)
def response_part(client_id: str, model_id: str, model_version: str, tensors: Signature) -> bytes:
    """The constant part of a result's envelope.

    Raises:
        ValueError: naming the key of a dtype that the wire does not have, or the key itself.
    """
    message = pb.ModelResponse(
        client=pb.Client(id=client_id), model_id=model_id, protocol_version=2, model_version=model_version
    )
    describe(message.tensors, tensors)
    return message.SerializeToString()


class ObservationTemplate:
    """The constant part of an observation's envelope, with gaps for the timestamps of its tensors.

    Args:
        message: an observation, without what is new each time, and its tensors, which all have the timestamp.
        timestamp_ns: theirs.
    """

    __slots__ = ("_parts",)

    def __init__(self, message: pb.Observation, timestamp_ns: int) -> None:
        self._parts: list[bytes] | None = None
        if timestamp_ns in _NINE_BYTES:
            parts = message.SerializeToString().split(_varint(timestamp_ns))
            # One more than there are tensors, unless a text happens to hold the same nine bytes.
            self._parts = parts if len(parts) == len(message.tensors) + 1 else None

    def envelope(self, timestamp_ns: int, new: bytes) -> bytes | None:
        """The envelope at that time, with what is new; None where it has to be made the long way.

        Args:
            timestamp_ns: of all that is in it.
            new: a serialized observation without the fields of the constant part, so that its timestamp comes first.
        """
        if self._parts is None or timestamp_ns not in _NINE_BYTES:
            return None
        return new[1:10].join(self._parts) + new


def _varint(timestamp_ns: int) -> bytes:
    return pb.Tensor(timestamp_ns=timestamp_ns).SerializeToString()[1:]
