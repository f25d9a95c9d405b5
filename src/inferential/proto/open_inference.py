"""Tensors in the messages of the Open Inference Protocol over HTTP (KServe's v2, Triton), both ways.

A message is JSON, and behind it the bytes of those tensors that have no `data` in it, in order; the header
`Inference-Header-Content-Length` has the length of the JSON where bytes follow. Little-endian; a text is its length
in 4 bytes and itself.

(KServe, "Open Inference Protocol"; Triton, "Binary data extension".)
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from inferential.dtype_names import named_dtype
from inferential.proto.decimal import decimal_list
from inferential.proto.tensors import Buffer
from inferential.proto.value_limits import MAX_JSON_BYTES, MAX_MSGPACK_VALUES, check_json

Array = npt.NDArray[Any]

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The header with the length of the JSON."""
BYTES = "BYTES"
"""The datatype of texts."""
_DATATYPES = {
    "bool": "BOOL",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
    "string": BYTES,
    **{f"{kind}{bits}": f"{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}
_DTYPES = {datatype: dtype for dtype, datatype in _DATATYPES.items()}
NO_SHARED_MEMORY = "shared memory is not served: send the tensors in the request"
_MAX_AXES, _MAX_SIZE = 64, 2**63 - 1  # as many as numpy has
_BINARY_ONLY = ("FP16", "BF16")
MAX_TEXTS = MAX_MSGPACK_VALUES
"""Of one message as bytes: an empty one is 4 bytes of it, and a value to make."""


def datatype_of(dtype: str) -> str:
    """Returns the protocol's name of a numpy dtype, "string" for texts.

    Raises:
        ValueError: it has none.
    """
    try:
        return _DATATYPES[dtype]
    except KeyError:
        raise ValueError(f"no datatype of the protocol for {dtype!r}") from None


def dtype_of(datatype: str) -> str:
    """Returns numpy's name of a datatype, "string" for texts.

    Raises:
        ValueError: the protocol has none of that name.
    """
    try:
        return _DTYPES[datatype]
    except (KeyError, TypeError):
        raise ValueError(f"expected a datatype as FP32, got {datatype!r}") from None


@dataclass(frozen=True, slots=True)
class InferMessage:
    """A request or response.

    Attributes:
        tensors: arrays by name; texts as arrays of str objects.
        fields: the JSON without the tensors: id, parameters, outputs, model_name.
    """

    tensors: Mapping[str, Array]
    fields: Mapping[str, Any] = field(default_factory=dict)


def read_infer(body: Buffer, header_length: int | None, key: str) -> InferMessage:
    """Returns a request (`key` "inputs") or a response ("outputs").

    Arrays are views on the body where it has their bytes.

    Args:
        body: of the HTTP message.
        header_length: the value of `HEADER_LENGTH`; None without that header.
        key: which list has the tensors.

    Raises:
        ValueError: naming the tensor and what is wrong with it.
    """
    view = memoryview(body).cast("B")
    length = len(view) if header_length is None else header_length
    if not 0 <= length <= len(view):
        raise ValueError(f"{HEADER_LENGTH}: expected at most {len(view)}, the length of the body, got {length}")
    if length > MAX_JSON_BYTES:
        raise ValueError(f"expected JSON of at most {MAX_JSON_BYTES} bytes, got {length}: send arrays as binary data")
    text = bytes(view[:length])
    check_json(text)
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON: {error}") from None
    listed = parsed.get(key) if isinstance(parsed, dict) else None
    if not isinstance(listed, list):
        raise ValueError(f"{key}: expected a list of tensors")
    rest, texts = view[length:], MAX_TEXTS
    tensors: dict[str, Array] = {}
    for one in listed:
        name, array, taken = _read_tensor(one, rest, texts)
        if name in tensors:
            raise ValueError(f"{key}: there are two named {name!r}")
        tensors[name] = array
        texts -= array.size if array.dtype.kind == "O" else 0
        rest = rest[taken:]
    if len(rest):
        raise ValueError(f"{len(rest)} bytes behind the last tensor")
    return InferMessage(tensors, {name: value for name, value in parsed.items() if name != key})


def shape_of(shape: object) -> list[int]:
    """Returns the sizes of an array, checked before anything is computed of them.

    Raises:
        ValueError: they are none, or there are too many.
    """
    if isinstance(shape, list) and len(shape) > _MAX_AXES:
        raise ValueError(f"shape: expected {_MAX_AXES} sizes at most, got {len(shape)}")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size <= _MAX_SIZE for size in shape):
        raise ValueError(f"shape: expected sizes, got {str(shape)[:200]}")
    return shape


def _read_tensor(described: Any, rest: memoryview, most_texts: int) -> tuple[str, Array, int]:
    """Returns name and array of a tensor, and how many bytes of `rest` it takes."""
    if not isinstance(described, dict) or not isinstance(described.get("name"), str):
        raise ValueError("a tensor without a name")
    name = described["name"]
    try:
        dtype = dtype_of(described.get("datatype", ""))
        shape = shape_of(described.get("shape"))
        parameters = described.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise ValueError(f"parameters: expected a map, got {type(parameters).__name__}")
        if "shared_memory_region" in parameters:
            raise ValueError(NO_SHARED_MEMORY)
        size = parameters.get("binary_data_size")
        if size is None:
            return name, _from_json(described, dtype, shape), 0
        if described.get("data") is not None:
            raise ValueError("expected data or binary_data_size, got both")
        if type(size) is not int or not 0 <= size <= len(rest):
            raise ValueError(f"binary_data_size: expected at most {len(rest)}, got {size!r}")
        return name, array_from_bytes(rest[:size], dtype, shape, most_texts), size
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from None


def _from_json(described: Mapping[str, Any], dtype: str, shape: Sequence[int]) -> Array:
    data = described.get("data")
    if not isinstance(data, list):
        raise ValueError("expected data or binary_data_size")
    if described["datatype"] in _BINARY_ONLY:
        raise ValueError(f"{described['datatype']} travels as binary data only")
    datatype = described["datatype"]
    try:
        given = np.array(data, dtype=object if dtype == "string" else None)
    except ValueError:
        raise ValueError(f"data: expected {datatype}, got lists of unequal lengths, or too deep ones") from None
    out_of_range = ValueError(f"data: a value out of the range of {datatype}")
    try:
        if given.dtype.kind == "f" and np.dtype(dtype).kind in "iu":
            given = _whole(given, data)
        if given.size and not _fits(given, dtype):
            raise ValueError(f"data: expected {datatype}, got {_in_words(given)}")
        if given.dtype.kind == "f" and not np.isfinite(given).all():
            raise ValueError("data: NaN and infinite numbers have no form in JSON: send them as binary data")
        with np.errstate(over="raise"):
            array = given.astype(object if dtype == "string" else dtype)
    except (OverflowError, FloatingPointError):
        raise out_of_range from None
    if given.size and array.dtype.kind in "iu" and not np.array_equal(array, given):
        raise out_of_range
    if array.size != math.prod(shape):
        raise ValueError(f"data: expected {math.prod(shape)} values for shape {list(shape)}, got {array.size}")
    return array.reshape(shape)


def _whole(given: Array, data: list[Any]) -> Array:
    """Returns numbers that are all whole as such: numpy makes floats of them where some are above int64, others not."""
    exact = np.array(data, dtype=object)
    if not exact.size or not all(type(one) is int for one in exact.flat):
        return given
    return exact.astype(np.int64 if any(one < 0 for one in exact.flat) else np.uint64)


def _fits(given: Array, dtype: str) -> bool:
    """Returns whether numbers, truth values or texts of JSON become a dtype without changing."""
    if dtype == "string":
        return all(isinstance(one, str) for one in given.flat)
    kinds = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}
    return given.dtype.kind in kinds[np.dtype(dtype).kind]


def _in_words(given: Array) -> str:
    words = {"b": "true or false", "i": "whole numbers", "u": "whole numbers", "f": "numbers with fractions"}
    return words.get(given.dtype.kind, "texts" if given.dtype.kind == "U" else "other values")


def array_from_bytes(data: memoryview, dtype: str, shape: Sequence[int], most_texts: int = MAX_TEXTS) -> Array:
    """Returns the array whose bytes a message has, a view of them; texts as str objects.

    Args:
        data: the bytes.
        dtype: numpy's name, "string" for texts.
        shape: sizes.
        most_texts: how many there may be.

    Raises:
        ValueError: it has another number of bytes, or too many texts.
    """
    count = math.prod(shape)
    if dtype == "string":
        if count > most_texts:
            raise ValueError(f"more than {MAX_TEXTS} texts in a message")
        texts = list(islice(_texts(data), count + 1))
        if len(texts) != count:
            came = f"more than {count}" if len(texts) > count else str(len(texts))
            raise ValueError(f"expected {count} texts for shape {list(shape)}, got {came}")
        array = np.empty(count, dtype=object)
        array[:] = texts
        return array.reshape(shape)
    kind = named_dtype(dtype).newbyteorder("<")
    if len(data) != count * kind.itemsize:
        raise ValueError(f"expected {count * kind.itemsize} bytes for shape {list(shape)}, got {len(data)}")
    if dtype == "bool":  # any byte but 0 is true; numpy would keep a 7, which compares as neither
        truths: Array = np.frombuffer(data, np.uint8) != 0
        return truths.reshape(shape)
    return np.frombuffer(data, dtype=kind).reshape(shape)


def _texts(data: memoryview) -> Iterable[str]:
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise ValueError("a text whose length is cut off")
        (length,) = struct.unpack_from("<I", data, at)
        if at + 4 + length > len(data):
            raise ValueError(f"a text of {length} bytes, and {len(data) - at - 4} bytes left")
        yield bytes(data[at + 4 : at + 4 + length]).decode("utf-8", "surrogateescape")
        at += 4 + length


def bytes_of(array: Array) -> tuple[str, bytes]:
    """Returns the datatype and the bytes of an array.

    Raises:
        ValueError: the protocol does not have its dtype.
    """
    if array.dtype.kind in "OUS":
        return BYTES, _text_bytes(array)
    return datatype_of(array.dtype.name), np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def write_infer(
    fields: Mapping[str, Any], key: str, tensors: Mapping[str, Array], binary: Mapping[str, bool]
) -> tuple[bytes, int | None]:
    """Returns the body of a request or response, and the value of `HEADER_LENGTH`; None where no bytes follow.

    Args:
        fields: of the JSON beside the tensors.
        key: which list has the tensors, "inputs" or "outputs".
        tensors: arrays by name.
        binary: whether each travels as bytes; true where it is not said.

    Raises:
        ValueError: naming an array that the protocol, or JSON, has no form for.
    """
    described: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for name, array in tensors.items():
        is_text = array.dtype.kind in "OUS"
        try:
            datatype = BYTES if is_text else datatype_of(array.dtype.name)
        except ValueError as error:
            raise ValueError(f"{name!r}: {error}") from None
        one: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(array.shape)}
        if binary.get(name, True) or datatype in _BINARY_ONLY:
            data = (
                _text_bytes(array) if is_text else np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
            )
            parts.append(data)
            one["parameters"] = {"binary_data_size": len(data)}
        else:
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"{name!r}: NaN and infinite numbers have no form in JSON: ask for it as binary data")
            one["data"] = decimal_list(array.reshape(-1))
        described.append(one)
    head = json.dumps({**fields, key: described}).encode()
    if not parts and not any("parameters" in one for one in described):
        return head, None
    return b"".join([head, *parts]), len(head)


def _text_bytes(array: Array) -> bytes:
    texts = [str(one).encode("utf-8", "surrogateescape") for one in array.reshape(-1)]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)
