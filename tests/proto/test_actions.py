"""What may be a chunk, and what may be asked of its actions."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.proto.actions import ActionSpec, ActionSpecs, BadActions, read_chunk
from inferential.proto.layout import Layout


@pytest.mark.parametrize("dtype", ["V4", [("a", "f4"), ("b", "f4")], object, "U1", complex, "M8[s]"])
def test_values_that_are_no_numbers_are_refused(dtype: Any) -> None:
    with pytest.raises(BadActions, match="result 'actions': expected numbers, got dtype"):
        read_chunk({"actions": np.zeros((5, 3), dtype)}, ["actions"])


def test_numbers_beyond_those_of_numpy_are_played() -> None:
    actions = np.ones((5, 3), ml_dtypes.bfloat16)
    assert read_chunk({"actions": actions}, ["actions"])["actions"] is actions


@pytest.mark.parametrize("shape", [(5,), (5, 1), (1, 5), (1, 5, 1)])
def test_a_gripper_beside_an_arm_has_one_number_a_step_in_any_form(shape: tuple[int, ...]) -> None:
    values = {"action.arm": np.zeros((1, 5, 3)), "action.gripper": np.arange(5.0).reshape(shape)}
    assert list(read_chunk(values, list(values))["action.gripper"].reshape(-1)) == [0, 1, 2, 3, 4]
    assert len(read_chunk(values, list(values))["action.gripper"]) == 5


@pytest.mark.parametrize("lengths", [(1, 5), (5, 1), (3, 1, 2)])
def test_a_chunk_of_one_action_may_come_before_and_after_longer_ones(lengths: tuple[int, ...]) -> None:
    layout: Layout | None = None
    for length in lengths:
        values = {"action.arm": np.zeros((length, 3)), "action.gripper": np.ones(length)}
        chunk = read_chunk(values, list(values))
        layout = layout or Layout(chunk, is_spread=True)
        assert layout.join(chunk).tolist() == [[0, 0, 0, 1]] * length
    assert layout is not None
    with pytest.raises(BadActions, match=r"expected actions of shape \(1?,?\) as before, got \(2,\)"):
        layout.join({"action.arm": np.zeros((5, 3)), "action.gripper": np.ones((5, 2))})


@pytest.mark.parametrize("hidden", [0.0, np.nan])
def test_a_mask_is_refused_as_what_it_hides_would_be_played(hidden: float) -> None:
    masked = np.ma.masked_array(np.full((5, 3), hidden), mask=True)
    with pytest.raises(BadActions, match=r"result 'actions': expected numbers, got a masked array"):
        read_chunk({"actions": masked}, ["actions"])
    found = read_chunk({"actions": np.ma.masked_array(np.zeros((5, 3)))}, ["actions"])
    assert type(found["actions"]) is np.ndarray


def test_actions_lie_where_their_keys_are_whatever_order_they_come_in() -> None:
    left, right = np.zeros((2, 3)), np.ones((2, 1))
    layout = Layout({"left": left, "right": right}, is_spread=True)
    joined = layout.join({"right": right, "left": left})
    assert joined.tolist() == [[0, 0, 0, 1]] * 2
    assert layout.flat({"right": right[0], "left": left[0]}).tolist() == [0, 0, 0, 1]


def test_what_is_made_of_several_actions_is_taken_apart_into_the_nearest_numbers() -> None:
    layout = Layout(
        {"arm": np.zeros((1, 1)), "hand": np.ones((1, 1), bool), "tool": np.ones((1, 1), int)}, is_spread=True
    )
    for mean, hand, tool in ((0.3, False, 0), (0.7, True, 1)):
        parts = layout.split(np.full(3, mean))
        assert (parts["arm"][0], parts["hand"][0], parts["tool"][0]) == (mean, hand, tool)
        assert [parts[key].dtype.kind for key in parts] == ["f", "b", "i"]


@pytest.mark.parametrize("shape", [7.0, "7", (7.0,), -1, True])
def test_a_wrong_shape_is_named(shape: Any) -> None:
    with pytest.raises(ValueError, match=r"action_spec\.shape: expected whole numbers above 0, got"):
        ActionSpec(shape=shape)


def test_a_shape_may_have_whole_numbers_of_numpy() -> None:
    assert ActionSpec(shape=tuple(np.array([7, 2]))).shape == (7, 2)


def test_limits_that_do_not_go_together_are_an_error_that_names_them() -> None:
    with pytest.raises(ValueError, match=r"action_spec.low: expected as many numbers as in high, \(3,\), got \(2,\)"):
        ActionSpec(low=[0, 0], high=[1, 1, 1])
    assert ActionSpec(low=0, high=[1, 1, 1])
    assert ActionSpec(low=[0, 0], high=1)


def test_a_spec_of_a_key_that_is_not_there_is_an_error_as_it_would_check_nothing() -> None:
    specs = ActionSpecs({"action.arn": {"high": 1.0}})
    with pytest.raises(BadActions, match=r"expected actions at 'action.arn', as action_spec says, got action.arm"):
        specs.read({"action.arm": np.zeros((5, 3))}, ["action.arm"])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_what_a_dtype_rounds_is_not_against_a_limit_that_the_policy_keeps(dtype: Any) -> None:
    spec = ActionSpec(low=-np.pi, high=0.3, max_change=0.05)
    falling = np.maximum(0.3 - 0.05 * np.arange(60), -np.pi)[:, np.newaxis].astype(dtype)
    spec.check("arm", falling)
    spec.check("arm", falling[::-1])
    wild = np.random.default_rng(0).normal(size=(50, 2)) * 3
    spec.check("arm", spec.clip("arm", wild.astype(dtype)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_what_is_against_a_limit_by_more_than_rounding_is_refused(dtype: Any) -> None:
    for actions in ([[0.31], [0.3]], [[0.0], [0.055]]):
        with pytest.raises(BadActions, match=r"expected (at most high|a change of at most)"):
            ActionSpec(high=0.3, max_change=0.05).check("arm", np.array(actions, dtype))


@given(
    dtype=st.sampled_from([np.int8, np.uint8, np.int64, np.bool_, np.float16, np.float32, ml_dtypes.bfloat16]),
    values=st.lists(st.integers(-300, 300), min_size=1, max_size=20),
    limits=st.tuples(st.floats(-5, 5), st.floats(-5, 5)).map(sorted),
    max_change=st.none() | st.floats(0.1, 5),
)
def test_what_is_clipped_keeps_every_limit_or_fails(
    dtype: Any, values: list[int], limits: list[float], max_change: float | None
) -> None:
    spec = ActionSpec(low=limits[0], high=limits[1], max_change=max_change)
    actions = np.array(values)[:, np.newaxis].astype(dtype)
    try:
        clipped = spec.clip("hand", actions)
    except BadActions:  # no number of the dtype is within them
        lowest = max(math.ceil(limits[0]), 0 if np.dtype(dtype).kind in "bu" else -300)
        assert np.dtype(dtype).kind in "biu"
        assert lowest > math.floor(min(limits[1], 1 if dtype is np.bool_ else 300))
    else:
        spec.check("hand", clipped)
        assert clipped.dtype == dtype
