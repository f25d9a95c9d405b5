"""Tensors of the Open Inference Protocol over gRPC, as raw bytes or as lists of a type, and as arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from inferential.errors import InvalidObservation
from inferential.gateway.kserve.inference import Asked, check_tensor_parameters, wanted_outputs
from inferential.gateway.kserve.messages import message_class
from inferential.gateway.kserve.models import ServedModel
from inferential.policies.tensors import TEXT, Array
from inferential.proto.open_inference import MAX_TEXTS, array_from_bytes, bytes_of, dtype_of, shape_of

_LISTS = {
    "bool": "bool_contents",
    **dict.fromkeys(("int8", "int16", "int32"), "int_contents"),
    **dict.fromkeys(("uint8", "uint16", "uint32"), "uint_contents"),
    "int64": "int64_contents",
    "uint64": "uint64_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
    TEXT: "bytes_contents",
}
"""Of `InferTensorContents`, the field for a dtype; float16 and bfloat16 travel as raw bytes alone."""


def asked_of(request: Any) -> Asked:
    """Returns what a ModelInferRequest asks.

    Raises:
        InvalidObservation: naming the tensor and what is wrong with it.
    """
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise InvalidObservation(
            f"raw_input_contents: expected {len(request.inputs)}, one for each input, got {len(raw)}"
        )
    tensors: dict[str, Array] = {}
    texts = MAX_TEXTS
    for number, one in enumerate(request.inputs):
        check_tensor_parameters(one.name, one.parameters)
        if one.name in tensors:
            raise InvalidObservation(f"inputs: there are two named {one.name!r}")
        try:
            array = _array(one, raw[number] if raw else None, texts)
        except ValueError as error:
            raise InvalidObservation(f"{one.name!r}: {error}") from None
        tensors[one.name] = array
        texts -= array.size if array.dtype.kind == "O" else 0
    for output in request.outputs:
        check_tensor_parameters(output.name, _parameters(output.parameters))
    return Asked(tensors, _parameters(request.parameters), wanted_outputs(one.name for one in request.outputs))


def response_of(request_id: str, model: ServedModel, outputs: Mapping[str, Array]) -> Any:
    """Returns a ModelInferResponse.

    Raises:
        ValueError: naming an output whose dtype the protocol does not have.
    """
    response = message_class("ModelInferResponse")(model_name=model.name, model_version=model.version, id=request_id)
    for name, array in outputs.items():
        try:
            datatype, data = bytes_of(array)
        except ValueError as error:
            raise ValueError(f"output {name!r}: {error}") from None
        response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        response.raw_output_contents.append(data)
    return response


def _array(described: Any, raw: bytes | None, most_texts: int) -> Array:
    dtype = dtype_of(described.datatype)
    shape = shape_of(list(described.shape))
    given = [field.name for field, _ in described.contents.ListFields()]
    if raw is not None:
        if given:
            raise ValueError(f"{given[0]}: expected none beside raw_input_contents")
        return array_from_bytes(memoryview(raw), dtype, shape, most_texts)
    if dtype not in _LISTS:
        raise ValueError(f"{described.datatype} travels in raw_input_contents only")
    if wrong := [name for name in given if name != _LISTS[dtype]]:
        raise ValueError(f"{wrong[0]}: {described.datatype} travels in {_LISTS[dtype]}")
    listed = getattr(described.contents, _LISTS[dtype])
    if len(listed) != math.prod(shape):
        raise ValueError(f"{_LISTS[dtype]}: expected {math.prod(shape)} values for shape {shape}, got {len(listed)}")
    try:
        if dtype == TEXT:
            array: Array = np.empty(len(listed), object)
            array[:] = [text.decode("utf-8", "surrogateescape") for text in listed]
        else:
            array = np.array(listed, dtype)
    except OverflowError as error:
        raise ValueError(str(error)) from None
    return array.reshape(shape)


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Returns parameters as plain values."""
    chosen = {name: (value, value.WhichOneof("choice")) for name, value in parameters.items()}
    return {name: getattr(value, choice) for name, (value, choice) in chosen.items() if choice is not None}
