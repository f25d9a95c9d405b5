"""Numbers of arrays as lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.proto.decimal import decimal_list


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=20))
def test_a_reader_gets_the_same_float32(numbers: list[float]) -> None:
    array = np.array(numbers, np.float32)
    np.testing.assert_array_equal(np.array(decimal_list(array), np.float32), array)


def test_no_more_digits_are_written_than_a_number_takes() -> None:
    assert decimal_list(np.array([[0.1, -0.3], [1e-30, 16777216.0]], np.float32)) == [[0.1, -0.3], [1e-30, 16777216.0]]
    assert decimal_list(np.float16([0.1])) == [0.1]


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "float64"])
def test_other_numbers_are_what_they_are(dtype: str) -> None:
    assert decimal_list(np.array([0, 1], dtype)) == [0, 1]


def test_an_array_without_axes_is_a_number() -> None:
    assert decimal_list(np.array(0.1, np.float32)) == 0.1


def test_of_very_many_numbers_all_digits_are_written() -> None:
    assert decimal_list(np.full(100_000, 0.1, np.float32))[0] == 0.10000000149011612
