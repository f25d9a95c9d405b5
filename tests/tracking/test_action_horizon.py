"""When a robot's actions run out, sent or learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inferential.tracking.action_horizon import ActionHorizonTracker, horizon_of
from inferential.tracking.limits import MAX_MODELS


def test_stated_steps_and_period_give_the_action_horizon() -> None:
    horizon = ActionHorizonTracker()
    assert horizon.on_request("a", "m", 10, 0.02, 5.0) == pytest.approx(5.2)


def test_a_robot_without_a_step_left_has_its_next_one_to_lose() -> None:
    horizon = ActionHorizonTracker()
    assert horizon.on_request("a", "m", 0, 0.02, 5.0) == pytest.approx(5.02)


def test_a_period_stated_once_is_kept() -> None:
    horizon = ActionHorizonTracker()
    horizon.on_request("a", "m", None, 0.02, 5.0)
    assert horizon.on_request("a", "m", 5, None, 6.0) == pytest.approx(6.1)


def test_the_period_is_learned_from_how_fast_steps_fall() -> None:
    horizon = ActionHorizonTracker()
    horizons = [horizon.on_request("a", "m", 40 - 5 * number, None, 5.0 + 0.1 * number) for number in range(4)]
    assert horizons[:3] == [None, None, None]
    assert horizons[3] == pytest.approx(5.3 + 25 * 0.02)


def test_a_fall_across_an_answer_tells_nothing_of_the_period() -> None:
    horizon = ActionHorizonTracker()
    for number in range(10):
        assert horizon.on_request("a", "m", 40 - number, None, 5.0 + number) is None
        horizon.on_answer("a", "m", 50, 5.0 + number)


def test_the_steps_are_learned_from_the_last_chunk() -> None:
    horizon = ActionHorizonTracker()
    assert horizon.on_request("a", "m", None, 0.02, 5.0) is None
    horizon.on_answer("a", "m", 50, 5.0)
    assert horizon.on_request("a", "m", None, 0.02, 5.4) == pytest.approx(6.0)
    assert horizon.on_request("a", "m", None, 0.02, 6.5) == pytest.approx(6.52)


def test_an_answer_to_an_unknown_client_is_ignored_and_a_forgotten_client_has_no_horizon() -> None:
    horizon = ActionHorizonTracker()
    horizon.on_answer("a", "m", 50, 5.0)
    horizon.on_request("a", "m", 3, 0.02, 5.0)
    horizon.forget("a")
    assert horizon.on_request("a", "m", 3, None, 6.0) is None


def test_no_client_is_remembered_for_more_models_than_the_limit() -> None:
    horizon = ActionHorizonTracker()
    for number in range(MAX_MODELS + 1):
        horizon.on_request("a", f"m{number}", 3, 0.02, 5.0)
    assert horizon.on_request("a", "m0", 3, None, 6.0) is None


@pytest.mark.parametrize(
    ("values", "horizon"),
    [
        ({"actions": np.zeros((50, 7))}, 50),
        ({"action": np.zeros((16, 2))}, 16),
        ({"actions": np.zeros(7)}, None),
        ({"actions": "none"}, None),
        ({"boxes": np.zeros((50, 7))}, None),
        (None, None),
    ],
)
def test_a_chunk_is_found_by_its_key_and_shape(values: dict[str, Any] | None, horizon: int | None) -> None:
    assert horizon_of(values) == horizon
