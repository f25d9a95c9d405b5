"""What may be a chunk, and what may be asked of its actions."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from inferential.proto.actions import ActionSpec, ActionSpecs, BadActions, read_chunk


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
