"""The place of a tensor in a payload, and its validation.

Only the description is checked here; the bytes of an image are checked when they are decoded.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from inferential.errors import InferentialError
from inferential.proto import (
    ENCODING_UNSPECIFIED,
    Tensor,
    dtype_from_numpy,
    dtype_to_numpy,
    encoding_from_string,
    encoding_to_string,
)
from inferential.proto.images import ImageError, check_shape

_MAX_DIMS = 32  # of numpy 1.26; later ones hold 64


class ObservationError(InferentialError):
    """An observation breaks a rule of the wire or a limit; the text names the field, the value and the rule.

    Attributes:
        client_id, model_id, request_id, protocol_version: of the observation, as far as they could be read; they
            decide whether and how the sender gets an answer.
    """

    def __init__(
        self,
        reason: str,
        *,
        client_id: str = "",
        model_id: str = "",
        request_id: int = 0,
        protocol_version: int = 0,
    ) -> None:
        self.reason = reason
        self.client_id = client_id
        self.model_id = model_id
        self.request_id = request_id
        self.protocol_version = protocol_version
        super().__init__(reason)


class SlotInfo(NamedTuple):
    """Where one tensor lies in the payload. A named tuple: it is made for every tensor of every observation.

    Attributes:
        key: its name.
        dtype: numpy's name of its dtype, "bfloat16" included.
        shape: of the decoded array.
        byte_offset, byte_length: its bytes in the payload, as sent.
        timestamp_ns: when it was measured, in ns by the client's clock; 0 where it is not given.
        encoding: "raw", "jpeg" or "png".
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    byte_offset: int
    byte_length: int
    timestamp_ns: int
    encoding: str

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The numpy dtype; ValueError for an unknown name."""
        return _dtype_by_name(self.dtype)

    @property
    def element_count(self) -> int:
        """The product of the shape, exact however large."""
        return math.prod(self.shape)


@cache
def _dtype_by_name(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        from inferential.proto import BFLOAT16

        return dtype_to_numpy(BFLOAT16)
    try:
        return dtype_to_numpy(dtype_from_numpy(np.dtype(name)))
    except TypeError as error:
        raise ValueError(f"No DType mapping for {name!r}") from error


def slot_of(tensor: Tensor) -> SlotInfo:
    """Returns the description of a tensor; `validate_slots` checks it.

    Raises:
        ObservationError: naming a dtype or an encoding that the wire does not have.
    """
    try:
        dtype = dtype_to_numpy(tensor.dtype)
        encoding = encoding_to_string(tensor.encoding) if tensor.encoding != ENCODING_UNSPECIFIED else "raw"
    except ValueError as error:
        raise ObservationError(f"tensor {tensor.key!r}: {error}") from error
    return SlotInfo(
        key=tensor.key,
        dtype=dtype.name,
        shape=tuple(tensor.shape),
        byte_offset=tensor.byte_offset,
        byte_length=tensor.byte_length,
        timestamp_ns=tensor.timestamp_ns,
        encoding=encoding,
    )


def validate_slots(slots: Iterable[SlotInfo], payload_size: int) -> None:
    """Checks every slot: its shape, dtype and size against each other and against the payload.

    Raises:
        ObservationError: naming the slot and what is wrong with it.
    """
    for slot in slots:
        end = slot.byte_offset + slot.byte_length
        if slot.byte_offset < 0 or slot.byte_length < 0 or end > payload_size:
            raise ObservationError(
                f"tensor {slot.key!r}: bytes {slot.byte_offset} to {end} exceeds payload size {payload_size}"
            )
        if any(size < 0 for size in slot.shape):
            raise ObservationError(f"tensor {slot.key!r}: negative size in shape {slot.shape}")
        count = slot.element_count
        if slot.byte_length == 0 and count > 0:
            raise ObservationError(f"tensor {slot.key!r}: zero byte_length for shape {slot.shape}")
        try:
            dtype = slot.numpy_dtype
            if slot.encoding == "raw":
                expected = count * dtype.itemsize
                if expected != slot.byte_length:
                    raise ObservationError(
                        f"tensor {slot.key!r}: byte_length {slot.byte_length} does not fit {slot.dtype} of shape "
                        f"{slot.shape}, which takes {expected}"
                    )
                if not _numpy_holds(slot.shape, dtype):
                    raise ObservationError(f"tensor {slot.key!r}: no array has the shape {slot.shape}")
            else:
                check_shape(encoding_from_string(slot.encoding), dtype, slot.shape)
        except (ImageError, ValueError) as error:
            raise ObservationError(f"tensor {slot.key!r}: {error}") from error


def _numpy_holds(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Returns whether numpy can make an array of the shape; where a size is 0, its number of bytes does not show it."""
    return len(shape) <= _MAX_DIMS and math.prod(filter(None, shape)) * dtype.itemsize <= sys.maxsize
