"""Whether an observation fits what a policy declares, and what becomes of its dtypes."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from inferential.errors import InvalidObservation
from inferential.policies.tensors import TensorSpec, pick, specs_of

STATE = TensorSpec("state", "float32", (3,))
IMAGE = TensorSpec("image", "uint8", (None, None, 3))


def fitted(spec: TensorSpec, value: Any) -> np.ndarray[Any, Any]:
    return pick([spec], {spec.name: value})[spec.name]


@pytest.mark.parametrize("given", ["<f4", ">f4", "<f8", ">f8", "f2", "i1", ">i2", "i4", "i8", "u2"])
def test_numbers_become_the_dtype_of_the_file_in_native_byte_order(given: str) -> None:
    seen = fitted(STATE, np.array([1, 2, 3], given))
    assert seen.dtype == np.float32
    assert seen.dtype.isnative
    assert seen.tolist() == [1, 2, 3]


def test_what_fits_is_not_copied() -> None:
    state = np.ones(3, np.float32)
    assert fitted(STATE, state) is state


def test_a_batch_axis_of_one_robot_is_taken_off() -> None:
    assert fitted(STATE, np.ones((1, 3), np.float32)).shape == (3,)
    assert fitted(IMAGE, np.ones((1, 4, 5, 3), np.uint8)).shape == (4, 5, 3)


def test_numbers_that_are_no_arrays_fit_a_tensor_without_axes() -> None:
    for value in (2, np.array([2], np.float32)):
        seen = fitted(TensorSpec("gain", "float32", ()), value)
        assert isinstance(seen, np.ndarray)
        assert seen.tolist() == 2.0


def test_a_number_fits_an_axis_of_one() -> None:
    for shape in ((1,), (None,)):
        assert fitted(TensorSpec("gain", "float32", shape), 2).tolist() == [2]


def test_a_text_fits_a_tensor_of_texts() -> None:
    assert fitted(TensorSpec("task", "string", ()), "pick").tolist() == "pick"
    assert fitted(TensorSpec("task", "string", (1,)), "pick").tolist() == ["pick"]
    assert fitted(TensorSpec("tasks", "string", (2,)), np.array([b"pick", b"place"])).tolist() == ["pick", "place"]


@pytest.mark.parametrize(
    ("spec", "value", "text"),
    [
        (STATE, np.ones(4, np.float32), "'state': expected float32 [3], got float32 [4]"),
        (STATE, np.ones((2, 3), np.float32), "'state': expected float32 [3], got float32 [2, 3]"),
        (STATE, np.float32(1), "'state': expected float32 [3], got float32 []"),
        (STATE, "up", "'state': expected float32 [3], got string []"),
        (STATE, np.ones(3, np.complex64), "'state': expected float32 [3], got complex64 [3]"),
        (STATE, np.full(3, 1e39), "'state': expected float32 [3], got the value 1e+39"),
        (STATE, np.array([np.nan, 1e39, np.inf]), "'state': expected float32 [3], got the value 1e+39"),
        (IMAGE, np.ones((4, 4, 3), np.float32), "'image': expected uint8 [*, *, 3], got float32 [4, 4, 3]"),
        (IMAGE, np.full((4, 4, 3), 300), "'image': expected uint8 [*, *, 3], got the value 300"),
        (IMAGE, np.full((4, 4, 3), -1), "'image': expected uint8 [*, *, 3], got the value -1"),
        (TensorSpec("task", "string", ()), np.ones(1), "'task': expected string [], got float64 [1]"),
        (TensorSpec("task", "string", (2,)), np.array(["a", 1], object), "'task': expected string [2], got int [2]"),
        (TensorSpec("task", "string", ()), b"\xff", "'task': expected string [], got bytes that are no UTF-8"),
        (STATE, [[1], [2, 3]], "'state': expected float32 [3], got lists of unequal lengths"),
        (STATE, None, "'state': expected float32 [3], got NoneType []"),
        (TensorSpec("free"), np.array([1, None]), "'free': expected any dtype of any shape, got int [2]"),
        (TensorSpec("open", "bool", (1,)), np.ones(1), "'open': expected bool [1], got float64 [1]"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_key_what_came_and_what_was_expected(
    spec: TensorSpec, value: Any, text: str
) -> None:
    with pytest.raises(InvalidObservation, match=re.escape(text)):
        fitted(spec, value)


def test_a_missing_key_is_named_beside_what_came() -> None:
    with pytest.raises(
        InvalidObservation, match=re.escape("'state' is missing: expected float32 [3], got camera, stat; did")
    ):
        pick([STATE], {"stat": np.ones(3), "camera": np.ones(3)})


def test_what_the_policy_does_not_take_is_left_out() -> None:
    assert list(pick([STATE], {"state": np.ones(3), "more": np.ones(9)})) == ["state"]


@given(stn.arrays(st.sampled_from(["f4", "i4", "u1", "?", ">i8", "f8"]), stn.array_shapes(min_dims=0, max_dims=4)))
def test_every_array_fits_or_is_refused(value: np.ndarray[Any, Any]) -> None:
    for spec in (STATE, IMAGE, TensorSpec("free"), TensorSpec("flat", "int64", (None,))):
        with contextlib.suppress(InvalidObservation):
            seen = fitted(spec, value)
            assert seen.size == value.size
            assert np.array_equal(
                seen.reshape(-1), value.reshape(-1).astype(seen.dtype), equal_nan=seen.dtype.kind == "f"
            )


def test_a_declaration_says_dtype_and_shape() -> None:
    assert specs_of({"state": {"dtype": "float32", "shape": [3, -1]}, "free": {}}, "inputs") == [
        TensorSpec("state", "float32", (3, None)),
        TensorSpec("free"),
    ]


@pytest.mark.parametrize(
    ("one", "text"),
    [
        ("float32", "inputs: 'state': expected a map with dtype, shape and optional"),
        ({"dtype": "float33"}, "inputs: 'state': expected a dtype as float32, got 'float33'"),
        ({"shape": [3, "n"]}, "inputs: 'state': expected sizes, -1 where one may vary"),
        ({"optional": 1}, "inputs: 'state': optional: expected true or false, got 1"),
        ({"size": [3]}, "inputs: 'state': expected a map with dtype, shape and optional"),
    ],
)
def test_a_declaration_that_says_something_else_is_named(one: Any, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        specs_of({"state": one}, "inputs")
