"""Arrays in msgpack as openpi writes them: maps with bytes keys.

    array    {b"__ndarray__": True, b"data": bytes, b"dtype": numpy's string, b"shape": sizes}
    scalar   {b"__npgeneric__": True, b"data": number, b"dtype": numpy's string}

Nothing is ever unpickled. (openpi-client 0.1.2, `msgpack_numpy`.)
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

_KINDS = "biufMmUS"  # what bytes alone can say; neither objects nor structs nor complex numbers


def pack(value: Any) -> bytes:
    """A value as msgpack.

    Raises:
        TypeError, ValueError: for what the format cannot carry.
    """
    packed: bytes = msgpack.packb(value, default=_encode)
    return packed


def unpack(data: bytes | bytearray | memoryview) -> Any:
    """The value; its arrays are views on `data`, which cannot be written.

    Raises:
        ValueError: it is no msgpack, or an array in it is not what it says.
    """
    try:
        return msgpack.unpackb(data, object_hook=_decode, strict_map_key=False)
    except (msgpack.exceptions.UnpackException, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"no message of this protocol: {error or type(error).__name__}") from error


def _encode(value: Any) -> Any:
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"expected arrays, numbers, strings, lists and maps, got {type(value).__name__}")
    _check(value.dtype)
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}


def _decode(told: dict[Any, Any]) -> Any:
    if b"__ndarray__" in told:
        dtype = _check(np.dtype(_told(told, b"dtype")))
        data, shape = _told(told, b"data"), tuple(_told(told, b"shape"))
        if not isinstance(data, bytes) or any(not isinstance(size, int) or size < 0 for size in shape):
            raise ValueError("an array without bytes or with a strange shape")
        if math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError(f"an array of {dtype} and shape {shape} has {len(data)} bytes")
        return np.ndarray(shape, dtype, data)
    if b"__npgeneric__" in told:
        return _check(np.dtype(_told(told, b"dtype"))).type(_told(told, b"data"))
    return told


def _told(told: dict[Any, Any], key: bytes) -> Any:
    try:
        return told[key]
    except KeyError:
        raise ValueError(f"an array without {key.decode()!r}") from None


def _check(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind not in _KINDS:
        raise ValueError(f"dtype {dtype.str!r} is not allowed")
    return dtype
