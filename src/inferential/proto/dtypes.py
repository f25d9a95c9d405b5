"""The numpy dtypes of the DType numbers on the wire.

bfloat16 is `ml_dtypes.bfloat16`: numpy has none of its own, and float16 is another format.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from inferential.dtype_names import named_dtype
from inferential.proto import inferential_pb2 as pb

_PAIRS: tuple[tuple[pb.DType, np.dtype[Any]], ...] = (
    (pb.FLOAT16, np.dtype("<f2")),
    (pb.FLOAT32, np.dtype("<f4")),
    (pb.FLOAT64, np.dtype("<f8")),
    (pb.UINT8, np.dtype("u1")),
    (pb.INT32, np.dtype("<i4")),
    (pb.INT64, np.dtype("<i8")),
    (pb.BOOL, np.dtype("?")),
    (pb.INT8, np.dtype("i1")),
    (pb.INT16, np.dtype("<i2")),
    (pb.UINT16, np.dtype("<u2")),
    (pb.UINT32, np.dtype("<u4")),
    (pb.UINT64, np.dtype("<u8")),
)
_NUMPY_BY_DTYPE: dict[int, np.dtype[Any]] = dict(_PAIRS)
_DTYPE_BY_NAME: dict[str, pb.DType] = {dtype.name: number for number, dtype in _PAIRS}
_DTYPE_BY_NUMPY: dict[np.dtype[Any], pb.DType] = {dtype: number for number, dtype in _PAIRS}  # names are slow
_ENCODINGS: dict[str, pb.Encoding] = {"raw": pb.RAW, "jpeg": pb.JPEG, "png": pb.PNG}
_ENCODING_NAMES: dict[int, str] = {number: name for name, number in _ENCODINGS.items()}


def dtype_to_numpy(dtype: int) -> np.dtype[Any]:
    """Returns the little-endian numpy dtype of a wire DType.

    Raises:
        ValueError: "Unknown DType ..." for a number that has none; for BFLOAT16 without ml_dtypes.
    """
    found = _NUMPY_BY_DTYPE.get(dtype)
    if found is not None:
        return found
    if dtype == pb.BFLOAT16:
        return named_dtype("bfloat16")
    raise ValueError(f"Unknown DType {dtype}; known: {', '.join(pb.DType.keys()[1:])}")


def dtype_from_numpy(dtype: np.dtype[Any]) -> pb.DType:
    """Returns the wire DType of a numpy dtype of either byte order.

    Raises:
        ValueError: "No DType mapping ..." where the wire has none (complex, object, strings, structs).
    """
    found = _DTYPE_BY_NUMPY.get(dtype)
    if found is None:
        found = _DTYPE_BY_NAME.get(dtype.name)
    if found is not None:
        return found
    if dtype.name == "bfloat16":
        return pb.BFLOAT16
    raise ValueError(f"No DType mapping for numpy dtype {dtype}; known: {', '.join(_DTYPE_BY_NAME)}, bfloat16")


def encoding_to_string(encoding: int) -> str:
    """Returns "raw", "jpeg" or "png"; ValueError "Unknown Encoding ..." for another number."""
    found = _ENCODING_NAMES.get(encoding)
    if found is None:
        raise ValueError(f"Unknown Encoding {encoding}; known: {', '.join(pb.Encoding.keys()[1:])}")
    return found


def encoding_from_string(name: str) -> pb.Encoding:
    """Returns the Encoding of a name in any case; ValueError "Unknown encoding string ..." for another."""
    found = _ENCODINGS.get(name.lower())
    if found is None:
        raise ValueError(f"Unknown encoding string {name!r}; known: {', '.join(_ENCODINGS)}")
    return found
