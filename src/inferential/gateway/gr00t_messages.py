"""Messages of GR00T's protocol: msgpack with arrays in one of two forms, and modality configs.

    NPY      {"__ndarray_class__": true, "as_npy": bytes of np.save}                  (N1.5, N1.6)
    NUMPY    {b"nd": true, b"type": dtype, b"kind": b"", b"shape": sizes, b"data": bytes}, scalars without
             kind and shape and with nd false (msgpack-numpy 0.4.8; N1.7)

A modality config is {MARKER: true, "as_json": config}, with `__ModalityConfig_class__` in N1.6 and `__ModalityConfig__`
in N1.7. Nothing is ever unpickled: msgpack-numpy's kinds O and V are refused.
"""

from __future__ import annotations

import enum
import io
import math
from typing import Any

import msgpack
import numpy as np

from inferential.dtype_names import MAX_AXES, sent_dtype
from inferential.proto.msgpack_numpy import unpack_with
from inferential.proto.structure import narrow_float_as_float32

_KINDS = "biufMmUS"  # dtypes that bytes alone describe: no objects, structs or complex numbers
_MODALITY_MARKERS = ("__ModalityConfig_class__", "__ModalityConfig__")
_MODALITY_FIELDS = {"delta_indices", "modality_keys"}


class ArrayForm(enum.Enum):
    """How arrays are written in a message."""

    NPY = "np.save"
    NUMPY = "msgpack-numpy"


def unpack(message: bytes) -> tuple[Any, ArrayForm | None]:
    """Returns the value of a message, and the form of the arrays in it, if there are any.

    Arrays of the form NUMPY are read-only views on the message.

    Raises:
        ValueError: it is not msgpack, or it names the key of an array that is malformed or not allowed.
    """
    seen: list[ArrayForm] = []

    def decode(value: dict[Any, Any]) -> Any:
        if "__ndarray_class__" in value:
            seen.append(ArrayForm.NPY)
            return _from_npy(value.get("as_npy"))
        if b"nd" in value:
            seen.append(ArrayForm.NUMPY)
            return _from_numpy(value)
        return value

    value = unpack_with(decode, message)
    return value, seen[-1] if seen else None


def token_of(message: bytes) -> Any:
    """Returns the value of `api_token` in a message, of which nothing else is read; None where there is none.

    A small message may stand for many objects: who may send it is looked at before they are made.
    """
    unpacker = msgpack.Unpacker(None, max_buffer_size=len(message), strict_map_key=False)
    unpacker.feed(message)
    try:
        for _ in range(unpacker.read_map_header()):
            key = unpacker.unpack()
            if key == "api_token":
                return unpacker.unpack()
            unpacker.skip()
    except (msgpack.exceptions.UnpackException, ValueError, RecursionError):
        return None
    return None


def pack(answer: Any, form: ArrayForm) -> bytes:
    """Returns an answer as msgpack, its arrays in that form; bfloat16 and float8 as float32.

    Raises:
        TypeError: naming the type or dtype of a value that the protocol cannot carry.
    """

    def encode(value: Any) -> Any:
        if isinstance(value, np.generic) and value.dtype.kind in "biuf":
            return value.item()
        if not isinstance(value, np.ndarray | np.generic):
            raise TypeError(f"an answer cannot hold a {type(value).__name__} in this protocol")
        array = np.asarray(value)
        narrow = narrow_float_as_float32(array)
        array = array if narrow is None else narrow
        if array.dtype.kind not in _KINDS:
            raise TypeError(f"an answer cannot hold an array of {array.dtype} in this protocol")
        if form is ArrayForm.NUMPY:
            return {
                b"nd": True,
                b"type": array.dtype.str,
                b"kind": b"",
                b"shape": array.shape,
                b"data": array.tobytes(),
            }
        output = io.BytesIO()
        np.save(output, array, allow_pickle=False)
        return {"__ndarray_class__": True, "as_npy": output.getvalue()}

    packed: bytes = msgpack.packb(answer, default=encode)
    return packed


def with_modality_markers(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a map of modality configs with the markers of both N1.6 and N1.7, which each client tells by its own.

    A modality config is a map with `delta_indices` and `modality_keys`; anything else is left as it is.
    """
    return {name: _marked(value) for name, value in config.items()}


def _marked(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() >= _MODALITY_FIELDS:
        return {**dict.fromkeys(_MODALITY_MARKERS, True), "as_json": value}
    return value


def _from_npy(data: Any) -> Any:
    """Returns the array of a .npy file as a view on its bytes.

    `np.load` reads archives too, whose members may be far larger than what was sent, allocates what a header asks for
    before it looks at what is there, and raises a dozen types on broken files.

    Raises:
        ValueError: it is no .npy file, holds objects, or has another size than its header says.
    """
    if not isinstance(data, bytes):
        raise ValueError("an array without as_npy")
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(file)
    except Exception as error:
        raise ValueError(f"as_npy: expected a .npy file: {error}") from error
    if dtype.hasobject:
        raise ValueError("as_npy: arrays of objects are not read")  # a pickle could run anything
    _check(dtype)
    expected, found = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if expected != found or any(size < 0 for size in shape):
        raise ValueError(f"as_npy: an array of {dtype} and shape {shape} has {expected} bytes, got {found}")
    return np.ndarray(shape, dtype, data, file.tell(), order="F" if fortran_order else "C")


def _from_numpy(value: dict[Any, Any]) -> Any:
    kind = value.get(b"kind", b"")
    if kind not in (b"", ""):
        raise ValueError(f"an array of kind {kind!r}: objects and structs are refused")
    name, data = value.get(b"type"), value.get(b"data")
    if not isinstance(name, str | bytes) or not isinstance(data, bytes):
        raise ValueError("an array without type or data")
    try:
        dtype = sent_dtype(name)
    except ValueError as error:
        raise ValueError(f"an array of {error}") from None
    _check(dtype)
    is_array = value[b"nd"] is True
    sizes = value.get(b"shape", ()) if is_array else ()
    if not isinstance(sizes, list | tuple) or any(type(size) is not int or size < 0 for size in sizes):
        raise ValueError(f"an array of shape {str(sizes)[:200]}")
    if len(sizes) > MAX_AXES:
        raise ValueError(f"an array of {len(sizes)} axes; at most {MAX_AXES} are allowed")
    if math.prod(sizes) * dtype.itemsize != len(data):
        raise ValueError(f"an array of {dtype} and shape {tuple(sizes)} has {len(data)} bytes")
    array: Any = np.ndarray(tuple(sizes), dtype, data)
    return array if is_array else array[()]


def _check(dtype: np.dtype[Any]) -> None:
    if dtype.kind not in _KINDS:
        raise ValueError(f"an array of dtype {dtype.str!r}: objects, structs and complex numbers are refused")
