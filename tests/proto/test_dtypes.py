"""DType and Encoding numbers, and their numpy dtypes and names."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from inferential import proto
from inferential.proto import dtype_from_numpy, dtype_to_numpy, encoding_from_string, encoding_to_string

CONTRACT = {
    "FLOAT16": (1, "float16"),
    "FLOAT32": (2, "float32"),
    "FLOAT64": (3, "float64"),
    "BFLOAT16": (4, "bfloat16"),
    "UINT8": (5, "uint8"),
    "INT32": (6, "int32"),
    "INT64": (7, "int64"),
    "BOOL": (8, "bool"),
}
ADDED = {"INT8": "int8", "INT16": "int16", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64"}


@pytest.mark.parametrize(("name", "number", "numpy_name"), [(name, *inputs) for name, inputs in CONTRACT.items()])
def test_a_dtype_of_the_contract_keeps_its_number_and_meaning(name: str, number: int, numpy_name: str) -> None:
    assert getattr(proto, name) == number
    assert dtype_to_numpy(number).name == numpy_name
    assert dtype_from_numpy(dtype_to_numpy(number)) == number


@pytest.mark.parametrize(("name", "numpy_name"), ADDED.items())
def test_an_added_dtype_has_a_number_from_16_up(name: str, numpy_name: str) -> None:
    number = getattr(proto, name)
    assert number >= 16
    assert dtype_to_numpy(number) == np.dtype(numpy_name)
    assert dtype_from_numpy(np.dtype(numpy_name)) == number


def test_bfloat16_is_that_of_ml_dtypes_and_not_float16() -> None:
    assert dtype_to_numpy(proto.BFLOAT16) == np.dtype(ml_dtypes.bfloat16)
    assert dtype_from_numpy(np.dtype(ml_dtypes.bfloat16)) == proto.BFLOAT16


def test_bfloat16_without_ml_dtypes_is_an_error_that_names_the_extra() -> None:
    program = """
import sys
sys.modules["ml_dtypes"] = None
from inferential.proto import BFLOAT16, FLOAT32, dtype_to_numpy
dtype_to_numpy(FLOAT32)
try:
    dtype_to_numpy(BFLOAT16)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "ml_dtypes is not installed" in done.stdout
    assert "inferential[bfloat16]" in done.stdout


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_either_byte_order_has_the_same_number(byte_order: str) -> None:
    assert dtype_from_numpy(np.dtype("float32").newbyteorder(byte_order)) == proto.FLOAT32


def test_what_leaves_the_wire_is_little_endian() -> None:
    for number in (*range(1, 9), *range(16, 21)):
        dtype = dtype_to_numpy(number)
        assert dtype == dtype.newbyteorder("<")


@pytest.mark.parametrize(
    "dtype",
    ["complex64", "object", "U5", "S5", "datetime64[ns]", "longdouble", [("a", "f4")], ml_dtypes.float8_e4m3fn],
)
def test_a_dtype_that_the_wire_does_not_have_is_named(dtype: object) -> None:
    with pytest.raises(ValueError, match=r"^No DType mapping for numpy dtype .*known: .*float32.*bfloat16"):
        dtype_from_numpy(np.dtype(dtype))  # type: ignore[call-overload]


@pytest.mark.parametrize("number", [0, 9, 15, 21, 99, -1, 2**31])
def test_a_number_without_a_dtype_is_named(number: int) -> None:
    with pytest.raises(ValueError, match=rf"^Unknown DType {number}; known: .*FLOAT32"):
        dtype_to_numpy(number)


@pytest.mark.parametrize(("name", "number"), [("raw", 1), ("jpeg", 2), ("png", 3)])
def test_an_encoding_goes_by_its_name_in_any_case(name: str, number: int) -> None:
    assert encoding_from_string(name) == encoding_from_string(name.upper()) == number
    assert encoding_to_string(number) == name


def test_an_unknown_encoding_is_named() -> None:
    with pytest.raises(ValueError, match=r"^Unknown encoding string 'gif'; known: raw, jpeg, png"):
        encoding_from_string("gif")
    for number in (0, 4, -1):
        with pytest.raises(ValueError, match=rf"^Unknown Encoding {number}; known: RAW, JPEG, PNG"):
            encoding_to_string(number)
