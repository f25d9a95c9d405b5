"""Arrays in msgpack as openpi writes them: maps with bytes keys.

    array    {b"__ndarray__": True, b"data": bytes, b"dtype": numpy's string, b"shape": sizes}
    scalar   {b"__npgeneric__": True, b"data": number, b"dtype": numpy's string}

The format has neither bfloat16 nor float8: they are sent as float32. Nothing is ever unpickled. (openpi-client 0.1.2,
`msgpack_numpy`.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np

from inferential.dtype_names import MAX_AXES, sent_dtype
from inferential.proto.structure import narrow_float_as_float32
from inferential.proto.value_limits import check_msgpack

_KINDS = "biufMmUS"  # dtypes that bytes alone describe: no objects, structs or complex numbers


def pack(value: Any) -> bytes:
    """Returns a value as msgpack.

    Raises:
        TypeError, ValueError: naming the key of a value that the format cannot carry.
    """
    try:
        packed: bytes = msgpack.packb(value, default=_encode)
    except (TypeError, ValueError, OverflowError) as error:
        raise _with_key(value, error) from error
    return packed


def unpack(data: bytes | bytearray | memoryview) -> Any:
    """Returns the value; its arrays are read-only views on `data`.

    Raises:
        ValueError: it is not msgpack, or it names the key of an array that is malformed or not allowed.
    """
    return unpack_with(_decode, data)


def unpack_with(decode: Callable[[dict[Any, Any]], Any], data: bytes | bytearray | memoryview) -> Any:
    """Returns the value of a msgpack message, in which `decode` makes arrays of the maps that stand for them.

    Raises:
        ValueError: it is not msgpack, has too many values, or it names the key of a map that `decode` refuses.
    """
    check_msgpack(data)
    try:
        return msgpack.unpackb(data, object_hook=decode, strict_map_key=False)
    except (msgpack.exceptions.UnpackException, ValueError, TypeError, RecursionError) as error:
        path = _refused(decode, data)
        where = f"{'/'.join(path)}: " if path else ""
        why = str(error) or "nested too deeply"  # which msgpack says by the type of its error
        raise ValueError(f"not a message of this protocol: {where}{why}") from error


def _refused(decode: Callable[[dict[Any, Any]], Any], data: bytes | bytearray | memoryview) -> list[str] | None:
    """Returns the path of the first map that `decode` refuses; msgpack does not say which it is."""

    def search(value: Any) -> list[str] | None:
        entries: Any = ()
        if isinstance(value, dict):
            try:
                decode(value)
            except (ValueError, TypeError):
                return []
            entries = value.items()
        elif isinstance(value, list):
            entries = enumerate(value)
        for key, inner in entries:
            found = search(inner)
            if found is not None:
                return [str(key), *found]
        return None

    try:
        return search(msgpack.unpackb(data, strict_map_key=False))
    except (msgpack.exceptions.UnpackException, ValueError, TypeError, RecursionError):
        return None


def _with_key(value: Any, error: Exception) -> Exception:
    """Returns the error with the path of the first value that cannot be packed; msgpack does not say which it is."""
    path = _unpackable(value)
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"{'/'.join(path)}: {error}" if path else str(error))


def _unpackable(value: Any) -> list[str]:
    entries: Any = ()
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list | tuple):
        entries = enumerate(value)
    for key, inner in entries:
        try:
            msgpack.packb(inner, default=_encode)
        except (TypeError, ValueError, OverflowError):
            return [str(key), *_unpackable(inner)]
    return []


def _encode(value: Any) -> Any:
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"expected an array, a number, a string, a list or a map, got {type(value).__name__}")
    narrow = narrow_float_as_float32(np.asarray(value))
    if narrow is not None:
        value = narrow if isinstance(value, np.ndarray) else narrow[()]
    _check(value.dtype)
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}


def _decode(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        dtype = _check(sent_dtype(_field(value, b"dtype")))
        data, shape = _field(value, b"data"), tuple(_field(value, b"shape"))
        if len(shape) > MAX_AXES:
            raise ValueError(f"an array of {len(shape)} axes; at most {MAX_AXES} are allowed")
        if not isinstance(data, bytes) or any(not isinstance(size, int) or size < 0 for size in shape):
            raise ValueError("an array without bytes or with a malformed shape")
        if math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError(f"an array of {dtype} and shape {shape} has {len(data)} bytes")
        return np.ndarray(shape, dtype, data)
    if b"__npgeneric__" in value:
        return _check(sent_dtype(_field(value, b"dtype"))).type(_field(value, b"data"))
    return value


def _field(value: dict[Any, Any], key: bytes) -> Any:
    try:
        return value[key]
    except KeyError:
        raise ValueError(f"an array without {key.decode()!r}") from None


def _check(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind not in _KINDS:
        raise ValueError(f"dtype {dtype.str!r} is not allowed")
    return dtype
