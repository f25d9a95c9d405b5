"""Numpy arrays into one payload and out of it again, without needless copies.

Tensors that come from outside are checked by `inferential.observation`.

Out: the payload is the arrays end to end, each at a multiple of 8 bytes. A writable array is copied once, so its owner
may reuse it at once (a camera driver's buffer does not wait for a network); a read-only array above a kilobyte
(`array.setflags(write=False)`) is sent from its own memory, alone or with others.

In: an array is a view on the received frame, writable where the frame is, and is copied only where its offset is not
aligned for its dtype.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from inferential.proto import inferential_pb2 as pb
from inferential.proto.dtypes import dtype_from_numpy

Array = npt.NDArray[Any]
Buffer = bytes | bytearray | memoryview
Payload = Buffer | list[Buffer]
"""The bytes of tensors, in one buffer or in several that follow one another."""

_ALIGN = 8
_SMALL_BYTES = 1024  # up to here copying is faster than finding out whether it can be done without
_JOIN_LIMIT_BYTES = 16 * 1024  # below it, joining byte strings is faster than filling an array
_NATIVE_ORDER = ("=", "|", "<")  # the wire is little-endian, and so is every platform of the wheels we build on


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """A compressed image: the bytes of the file, and the dtype and shape of its array."""

    data: bytes
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    encoding: pb.Encoding


Tensors = Mapping[str, Array | EncodedImage]
"""Tensors by key, in the order of the payload."""


class TensorSink(Protocol):
    """The repeated field that descriptors are added to."""

    def add(self, **fields: Any) -> Any: ...


def describe(
    sink: TensorSink, tensors: Sequence[tuple[str, np.dtype[Any], tuple[int, ...]]], timestamp_ns: int = 0
) -> None:
    """Describes raw tensors, given by key, dtype and shape, as `gather` lays them out.

    Raises:
        ValueError: naming the key of a dtype that the wire does not have, or the key itself.
    """
    for (key, dtype, shape), offset in zip(tensors, offsets_of(tensors)[0], strict=True):
        _add(sink, key, dtype, shape, offset, math.prod(shape) * dtype.itemsize, timestamp_ns, pb.RAW)


def offsets_of(tensors: Sequence[tuple[str, np.dtype[Any], tuple[int, ...]]]) -> tuple[list[int], int]:
    """Returns where `gather` puts raw tensors, given by key, dtype and shape, and the size of the payload."""
    offsets, end = [], 0
    for _, dtype, shape in tensors:
        offsets.append(-(-end // _ALIGN) * _ALIGN)
        end = offsets[-1] + math.prod(shape) * dtype.itemsize
    return offsets, end


def pack(sink: TensorSink, values: Tensors, timestamp_ns: int = 0) -> Buffer:
    """Describes `values` in `sink` and returns the payload that holds them.

    Raises:
        ValueError: naming the key of an array whose dtype the wire does not have, or the key itself.
    """
    for (key, value), (offset, size) in zip(values.items(), _offsets(values), strict=True):
        encoding = value.encoding if isinstance(value, EncodedImage) else pb.RAW
        _add(sink, key, value.dtype, value.shape, offset, size, timestamp_ns, encoding)
    return gather(values)


def _add(
    sink: TensorSink,
    key: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    offset: int,
    size: int,
    timestamp_ns: int,
    encoding: pb.Encoding,
) -> None:
    try:
        sink.add(
            key=key,
            dtype=dtype_from_numpy(dtype),
            shape=shape,
            byte_offset=offset,
            byte_length=size,
            timestamp_ns=timestamp_ns,
            encoding=encoding,
        )
    except ValueError as error:  # a dtype that the wire does not have, or a key that is no valid Unicode
        raise ValueError(f"{key}: {error}") from error


def gather(values: Tensors) -> Buffer:
    """Returns the payload that holds `values`."""
    if not values:
        return b""
    if len(values) == 1:
        (value,) = values.values()
        return _bytes_of(value)
    places = _offsets(values)
    end = places[-1][0] + places[-1][1]
    if end <= _JOIN_LIMIT_BYTES:
        return _joined(values, places)
    return _gathered(values, places, end)


def pieces(values: Tensors) -> Payload:
    """Returns the same payload, in several buffers where there are several large arrays, which saves a copy."""
    if len(values) == 1:
        (value,) = values.values()
        return _bytes_of(value)
    if not values or sum(size for _, size in _offsets(values)) <= _JOIN_LIMIT_BYTES:
        return gather(values)
    return _chunks(values, _offsets(values))


def whole(payload: Payload) -> Buffer:
    """Returns a payload as one buffer."""
    return b"".join(payload) if isinstance(payload, list) else payload


def _offsets(values: Tensors) -> list[tuple[int, int]]:
    """Returns offset and size of each."""
    places = []
    total = 0
    for value in values.values():
        size = len(value.data) if isinstance(value, EncodedImage) else value.nbytes
        places.append((total, size))
        total += -(-size // _ALIGN) * _ALIGN
    return places


def _bytes_of(value: Array | EncodedImage) -> Buffer:
    if type(value) is not np.ndarray:
        if isinstance(value, EncodedImage):
            return value.data
        value = np.asarray(value)  # a masked array's own tobytes would put fill values where it is masked
    if value.dtype.byteorder not in _NATIVE_ORDER:
        value = value.astype(value.dtype.newbyteorder("<"))
    if value.nbytes > _SMALL_BYTES and value.flags.c_contiguous and not _is_writable(value):
        if value.dtype.kind == "V":  # bfloat16, of which numpy gives no buffer
            value = value.view(np.uint8)
        return value.data.cast("B")
    return value.tobytes()


def _is_writable(array: Array) -> bool:
    """Returns whether the array or one that it is a view of is writable; foreign memory counts as writable."""
    base: Any = array
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return True
        base = base.base
    return base is not None and not isinstance(base, bytes)


def _joined(values: Tensors, places: Sequence[tuple[int, int]]) -> bytes:
    return b"".join(_chunks(values, places))


def _chunks(values: Tensors, places: Sequence[tuple[int, int]]) -> list[Buffer]:
    """Returns the bytes of the arrays and of the gaps between them."""
    chunks: list[Buffer] = []
    at = 0
    for value, (offset, size) in zip(values.values(), places, strict=True):
        if offset > at:
            chunks.append(bytes(offset - at))
        chunks.append(_bytes_of(value))
        at = offset + size
    return chunks


def _gathered(values: Tensors, places: Sequence[tuple[int, int]], end: int) -> Buffer:
    payload = np.empty(end, dtype=np.uint8)
    for value, (offset, size) in zip(values.values(), places, strict=True):
        target = payload[offset : offset + size]
        if isinstance(value, EncodedImage):
            target[:] = np.frombuffer(value.data, dtype=np.uint8)
        elif size:
            little = value.dtype.newbyteorder("<") if value.dtype.byteorder == ">" else value.dtype
            # A copy into the frame, whatever the strides and byte order of the source.
            target.view(little).reshape(value.shape)[...] = value
        payload[offset + size : offset + size + -size % _ALIGN] = 0  # never send uninitialized memory
    return payload.data


def view(payload: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...], byte_offset: int, byte_length: int) -> Array:
    """Returns the array at `byte_offset` of `payload`.

    Raises:
        ValueError: `byte_length` is not that of the shape and dtype, or the bytes lie outside the payload.
    """
    if byte_offset + byte_length > len(payload):  # before numpy, which accepts no number from 2**63 up
        raise ValueError(f"bytes {byte_offset} to {byte_offset + byte_length} of a buffer of {len(payload)}")
    if math.prod(shape) * dtype.itemsize != byte_length or min(shape, default=0) < 0:
        raise ValueError(f"{byte_length} bytes hold no {dtype.name} of shape {shape}")
    return view_checked(payload, dtype, shape, byte_offset)


def view_checked(payload: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...], byte_offset: int) -> Array:
    """Returns the same, of an offset and size that were checked."""
    array: Array = np.ndarray(shape, dtype, payload, byte_offset)
    return array if array.flags.aligned else array.copy()
