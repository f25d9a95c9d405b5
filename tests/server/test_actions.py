"""`models.known.<id>.actions`: what becomes of a model's bad actions on the server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.server.conftest import Serve

from inferential import ModelFailed
from inferential.config import InferentialConfig

STATE = np.zeros(3, np.float32)


def configured(**actions: Any) -> dict[str, Any]:
    return {"models": {"known": {"m": {"actions": actions}}}}


async def ask(serve: Serve, answer: Any, **actions: Any) -> Any:
    async with serve({"m": lambda observation: answer}, configured(**actions)) as server:
        return await server.connect("arm").model("m").infer(60_000, state=STATE)


GOOD = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (np.full((4, 3), np.nan), r"'actions': expected finite numbers, got nan at \[0, 0\]"),
        (np.zeros((4, 2)), r"'actions': expected actions of shape \(3,\), got \(2,\)"),
        (np.zeros((2, 4, 3)), r"expected a chunk \[T, action_dim\] or \[1, T, action_dim\], got shape \(2, 4, 3\)"),
        (GOOD * 3, r"'actions': expected at least low -1, got -3 at \[0, 0\]"),
        (np.array([[0.0, 0, 0], [0, 0.9, 0]]), r"expected a change of at most 0.8 a step, got 0.9 from action 0 on"),
        ({"text": "no idea"}, "expected an action chunk at 'actions' or 'action', got arrays at: none"),
    ],
)
async def test_a_bad_action_ends_as_a_model_that_failed(serve: Serve, answer: Any, problem: str) -> None:
    with pytest.raises(ModelFailed, match=problem):
        await ask(serve, answer, shape=[3], low=-1, high=1.0, max_change=0.8)


@pytest.mark.parametrize("answer", [GOOD, GOOD[np.newaxis], GOOD[0]])
async def test_good_actions_pass_in_any_form(serve: Serve, answer: Any) -> None:
    result = await ask(serve, answer, shape=[3], low=-1, high=1, max_change=[0.8, 0.8, 0.8])
    assert np.array_equal(result["actions"], answer)


@pytest.mark.parametrize("batch", [False, True])
async def test_actions_are_clipped_where_the_file_says_so(serve: Serve, batch: bool) -> None:
    answer = np.array([[0.0, 2.0], [5.0, 2.0], [0.0, -9.0]], np.float32)
    result = await ask(serve, answer[None] if batch else answer, low=[-1, -2], high=3, max_change=2, on_bad="clip")
    clipped = [[0, 2], [2, 2], [0, 0]]
    assert result["actions"].tolist() == ([clipped] if batch else clipped)
    assert result["actions"].dtype == np.float32


async def test_of_a_result_with_actions_and_action_both_are_checked(serve: Serve) -> None:
    with pytest.raises(ModelFailed, match=r"'action': expected at most high 1, got 1.90909 at \[0, 0\]"):
        await ask(serve, {"actions": GOOD, "action": GOOD[3] * 3}, high=1)
    result = await ask(serve, {"actions": GOOD, "action": GOOD[3] * 3}, high=1, on_bad="clip")
    assert np.array_equal(result["actions"], GOOD)
    assert result["action"].tolist() == pytest.approx([1, 1, 1])
    keys = {"actions": {"high": 1}}  # which says where they are
    assert (await ask(serve, {"actions": GOOD, "action": GOOD[3] * 3}, keys=keys))["action"].max() == 3


async def test_what_clipping_cannot_mend_fails(serve: Serve) -> None:
    with pytest.raises(ModelFailed, match="finite"):
        await ask(serve, np.array([[np.inf, 0, 0]]), low=-1, on_bad="clip")


async def test_limits_by_key(serve: Serve) -> None:
    keys = {"action.arm": {"shape": [2], "high": 1.0}, "action.gripper": {"shape": [1], "low": 0}}
    answer = {"action.arm": np.ones((3, 2)), "action.gripper": np.zeros((3, 1)), "state": np.zeros(9)}
    assert (await ask(serve, answer, keys=keys))["action.arm"].shape == (3, 2)
    with pytest.raises(ModelFailed, match=r"'action.gripper': expected at least low 0, got -1 at \[0, 0\]"):
        await ask(serve, answer | {"action.gripper": -np.ones((3, 1))}, keys=keys)
    with pytest.raises(ModelFailed, match=r"as many actions at each key, got 3 at 'action.arm', 2 at 'action.gripper'"):
        await ask(serve, answer | {"action.gripper": np.ones((2, 1))}, keys=keys)


async def test_other_models_and_robots_go_on_and_the_limits_change_live(serve: Serve) -> None:
    models = {"m": lambda observation: GOOD * 3, "other": lambda observation: GOOD * 3}
    async with serve(models, configured(high=1.0)) as server:
        robot = server.connect("arm")
        with pytest.raises(ModelFailed):
            await robot.model("m").infer(60_000, state=STATE)
        assert await robot.model("other").infer(60_000, state=STATE) is not None
        changed = server.config.model_copy(deep=True)
        changed.models.known["m"].actions.high = 5.0
        server.reconfigure(changed)
        assert await robot.model("m").infer(60_000, state=STATE) is not None


@pytest.mark.parametrize(
    ("actions", "problem"),
    [
        ({"low": 2.0, "high": 1.0}, "low: expected at most high"),
        ({"shape": [3], "low": [0.0, 0.0]}, "low: expected a number or one for each of shape"),
        ({"shape": [0]}, "shape"),
        ({"max_change": 0.0}, "max_change: expected numbers above 0"),
        ({"low": float("nan")}, "low"),
        ({"on_bad": "ignore"}, "on_bad"),
        ({"high": 1.0, "keys": {"action.arm": {"low": 0.0}}}, "either for all keys, or under keys"),
    ],
)
def test_limits_that_contradict_themselves_are_named(actions: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        InferentialConfig.model_validate(configured(**actions))
