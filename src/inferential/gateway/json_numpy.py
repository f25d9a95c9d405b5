"""JSON in which arrays are maps, as the package json-numpy writes it.

    {"__numpy__": base64 of the bytes, "dtype": numpy's string, "shape": sizes}

Scalars of numpy have the shape []. bfloat16 and float8 are sent as float32; structs and objects are refused.
(json-numpy 2.1.1.)
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any

import numpy as np

from inferential.dtype_names import sent_dtype
from inferential.proto.structure import narrow_float_as_float32
from inferential.proto.value_limits import check_json

ARRAY_KEY = "__numpy__"
"""Of a map that is an array."""
_KINDS = "biufMmUS"  # dtypes that bytes alone describe: no objects, structs or complex numbers


def loads(text: str | bytes | bytearray) -> Any:
    """Returns the value; its arrays are read-only.

    Raises:
        ValueError: it is not JSON, has too many values, or an array in it is malformed or not allowed.
    """
    check_json(text)
    try:
        return json.loads(text, object_hook=_decoded)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error


def dumps(value: Any) -> str:
    """Returns a value as JSON.

    Raises:
        TypeError: naming the type or dtype of a value that JSON cannot carry.
    """
    return json.dumps(value, default=_encoded)


def _decoded(value: dict[str, Any]) -> Any:
    if ARRAY_KEY not in value:
        return value
    data, name, sizes = value[ARRAY_KEY], value.get("dtype"), value.get("shape")
    if not isinstance(data, str) or not isinstance(name, str):
        raise ValueError("__numpy__: expected base64 and a dtype as text")
    if not isinstance(sizes, list) or any(type(size) is not int or size < 0 for size in sizes) or len(sizes) > 16:
        raise ValueError("__numpy__: expected a shape of up to 16 sizes")
    try:
        dtype = sent_dtype(name)
    except ValueError as error:
        raise ValueError(f"__numpy__: {error}") from None
    if dtype.kind not in _KINDS:
        raise ValueError(f"__numpy__: dtype {name[:40]!r}: objects, structs and complex numbers are refused")
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"__numpy__: expected base64: {error}") from error
    if math.prod(sizes) * dtype.itemsize != len(content):
        raise ValueError(f"__numpy__: an array of {dtype} and shape {tuple(sizes)} has {len(content)} bytes")
    array: Any = np.ndarray(tuple(sizes), dtype, content)
    return array if sizes else array[()]


def _encoded(value: Any) -> dict[str, Any]:
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"an answer cannot hold a {type(value).__name__} in JSON")
    array = np.asarray(value)
    narrow = narrow_float_as_float32(array)
    array = array if narrow is None else narrow
    if array.dtype.kind not in _KINDS:
        raise TypeError(f"an answer cannot hold an array of {array.dtype} in JSON")
    content = base64.b64encode(array.tobytes()).decode()
    return {ARRAY_KEY: content, "dtype": array.dtype.str, "shape": list(array.shape)}
