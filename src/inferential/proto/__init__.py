"""The wire format: messages, enum values and the mappings between them and numpy.

It opens no socket. The schema is inferential.proto; the code made from it is built on install.
"""

from __future__ import annotations

from inferential.proto.dtypes import dtype_from_numpy, dtype_to_numpy, encoding_from_string, encoding_to_string
from inferential.proto.inferential_pb2 import (
    BFLOAT16,
    BOOL,
    DTYPE_UNSPECIFIED,
    ENCODING_UNSPECIFIED,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    INT8,
    INT16,
    INT32,
    INT64,
    JPEG,
    PNG,
    QUEUE_ALL,
    QUEUE_LATEST,
    QUEUE_UNSPECIFIED,
    RAW,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
    Client,
    DType,
    Encoding,
    ModelResponse,
    Observation,
    QueueMode,
    Status,
    Tensor,
    Timing,
)

PROTOCOL_VERSION = 2
"""What this line says of itself; the 0.1 and 1.x lines say nothing, which reads as 0."""

__all__ = [
    "BFLOAT16",
    "BOOL",
    "DTYPE_UNSPECIFIED",
    "ENCODING_UNSPECIFIED",
    "FLOAT16",
    "FLOAT32",
    "FLOAT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "JPEG",
    "PNG",
    "PROTOCOL_VERSION",
    "QUEUE_ALL",
    "QUEUE_LATEST",
    "QUEUE_UNSPECIFIED",
    "RAW",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "Client",
    "DType",
    "Encoding",
    "ModelResponse",
    "Observation",
    "QueueMode",
    "Status",
    "Tensor",
    "Timing",
    "dtype_from_numpy",
    "dtype_to_numpy",
    "encoding_from_string",
    "encoding_to_string",
]
