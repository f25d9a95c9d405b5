"""Tensors in messages of the Open Inference Protocol: there and back, and what is no such message."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from inferential.proto.open_inference import MAX_TEXTS, array_from_bytes, read_infer, write_infer

NUMBERS = ["?", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">f4", ">i8"]
arrays = stn.arrays(st.sampled_from(NUMBERS), stn.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
texts = stn.arrays(np.dtype(object), stn.array_shapes(max_dims=2), elements=st.text(max_size=5))


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.tuples(arrays | texts, st.booleans()), max_size=4))
def test_tensors_come_back_as_they_were(given: dict[str, tuple[np.ndarray[Any, Any], bool]]) -> None:
    tensors = {name: array for name, (array, _) in given.items()}
    finite = {name: array for name, array in tensors.items() if array.dtype.kind != "f" or np.isfinite(array).all()}
    binary = {name: as_bytes for name, (_, as_bytes) in given.items()}
    body, length = write_infer({"id": "7"}, "inputs", finite, binary)
    message = read_infer(body, length, "inputs")
    assert message.fields == {"id": "7"}
    assert list(message.tensors) == list(finite)
    for name, array in finite.items():
        assert message.tensors[name].shape == array.shape
        assert message.tensors[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(message.tensors[name], array)


@pytest.mark.parametrize("value", [[0, 2**63], [2**64 - 1, 0], [[1, 2**63], [2**63, 2]]])
def test_whole_numbers_on_both_sides_of_int64_stay_exact(value: list[Any]) -> None:
    array = np.array(value, np.uint64)
    body, length = write_infer({}, "inputs", {"x": array}, {"x": False})
    np.testing.assert_array_equal(read_infer(body, length, "inputs").tensors["x"], array)


def one(**fields: Any) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], **fields}]}).encode()


@pytest.mark.parametrize(
    ("body", "length", "text"),
    [
        (b"{", None, "expected JSON"),
        (b"[" * 100_000, None, "expected JSON"),
        (b"{}", None, "inputs: expected a list of tensors"),
        (b"[]", None, "inputs: expected a list of tensors"),
        (b'{"inputs": [1]}', None, "a tensor without a name"),
        (b"{}", 7, "Inference-Header-Content-Length: expected at most 2, the length of the body, got 7"),
        (one(), None, "'x': expected data or binary_data_size"),
        (one(data=[1]), None, "'x': data: expected 2 values for shape [2], got 1"),
        (one(data=[-1, 2**63], datatype="UINT64"), None, "'x': data: "),
        (one(data=[-1, 2**63], datatype="INT64"), None, "'x': data: a value out of the range of INT64"),
        (one(data=[1e999, 0]), None, "'x': data: NaN and infinite numbers have no form in JSON"),
        (b" " * (64 * 2**20 + 1), None, "expected JSON of at most 67108864 bytes, got 67108865"),
        (one(data=[0.5, 2**63], datatype="UINT64"), None, "'x': data: expected UINT64, got numbers with fractions"),
        (one(data=[1, "2"]), None, "'x': data: expected FP32, got texts"),
        (one(data=[1, None], datatype="INT32"), None, "'x': "),
        (one(data=[[1], [2, 3]]), None, "'x': data: expected FP32, got lists of unequal lengths"),
        (one(data=[1, 2], datatype="FP99"), None, "'x': expected a datatype as FP32, got 'FP99'"),
        (one(data=[1, 2], datatype=["FP32"]), None, "'x': expected a datatype as FP32"),
        (one(data=[1, 2], datatype="FP16"), None, "'x': FP16 travels as binary data only"),
        (one(data=[1, 2], shape=[-1]), None, "'x': shape: expected sizes, got [-1]"),
        (one(data=[1, 2], shape=2), None, "'x': shape: expected sizes, got 2"),
        (one(data=[1, 2], datatype="BYTES"), None, "'x': data: expected BYTES, got other values"),
        (one(data=[300, 1], datatype="UINT8"), None, "'x': "),
    ],
)
def test_what_is_no_message_says_why(body: bytes, length: int | None, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        read_infer(body, length, "inputs")


@pytest.mark.parametrize(
    ("fields", "behind", "text"),
    [
        ({"parameters": {"binary_data_size": 8}}, bytes(4), "'x': binary_data_size: expected at most 4, got 8"),
        ({"parameters": {"binary_data_size": 4}}, bytes(4), "'x': expected 8 bytes for shape [2], got 4"),
        ({"parameters": {"binary_data_size": "8"}}, bytes(8), "'x': binary_data_size: expected at most 8, got '8'"),
        ({"parameters": {"binary_data_size": 8}}, bytes(9), "1 bytes behind the last tensor"),
        ({"parameters": {"binary_data_size": 8}, "datatype": "BYTES"}, b"\x09\0\0\0abcd", "'x': a text of 9 bytes"),
        ({"parameters": {"binary_data_size": 4}, "datatype": "BYTES"}, bytes(4), "'x': expected 2 texts"),
        ({"parameters": {"binary_data_size": 8}, "data": [1, 2]}, bytes(8), "data or binary_data_size, got both"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(fields: dict[str, Any], behind: bytes, text: str) -> None:
    head = one(**fields)
    with pytest.raises(ValueError, match=re.escape(text)):
        read_infer(head + behind, len(head), "inputs")


def test_texts_are_no_more_than_their_shape_says_and_than_a_message_may_have() -> None:
    with pytest.raises(ValueError, match=r"expected 2 texts for shape \[2\], got more than 2"):
        array_from_bytes(memoryview(bytes(4 * 3)), "string", [2])
    half = MAX_TEXTS // 2 + 1
    tensors = [
        {"name": name, "datatype": "BYTES", "shape": [half], "parameters": {"binary_data_size": 4 * half}}
        for name in ("x", "y")
    ]
    head = json.dumps({"inputs": tensors}).encode()
    with pytest.raises(ValueError, match=f"'y': more than {MAX_TEXTS} texts in a message"):
        read_infer(head + bytes(8 * half), len(head), "inputs")


def test_a_name_comes_once() -> None:
    described = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
    with pytest.raises(ValueError, match="there are two named 'x'"):
        read_infer(json.dumps({"inputs": [described, described]}).encode(), None, "inputs")


def test_any_byte_but_zero_is_true() -> None:
    described = {"name": "x", "datatype": "BOOL", "shape": [3], "parameters": {"binary_data_size": 3}}
    head = json.dumps({"inputs": [described]}).encode()
    seen = read_infer(head + b"\x00\x01\x07", len(head), "inputs").tensors["x"]
    assert seen.view(np.uint8).tolist() == [0, 1, 1]
