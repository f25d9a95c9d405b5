"""When a robot's actions run out, sent or learned."""

from __future__ import annotations

import math
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


# The mirror of a robot's queue: 50 Hz, chunks of 25 actions, 0.5 s


@pytest.fixture
def mirror() -> ActionHorizonTracker:
    """A tracker that knows how long the model's chunks are."""
    horizon = ActionHorizonTracker()
    horizon.on_request("other", "m", 0, 0.02, 0.0)
    horizon.on_answer("other", "m", 25, 0.0)
    return horizon


def runs_out_at(mirror: ActionHorizonTracker, steps: int, now: float, *played: int) -> float:
    mirror.on_request("a", "m", steps, 0.02, now)
    queue = mirror.queue_of("a", "m", steps, now, *played)
    assert queue is not None
    assert queue.lasts_s == pytest.approx(0.5)
    return queue.runs_out_at


def test_how_long_a_chunk_lasts_is_known_from_any_robot_of_the_model(mirror: ActionHorizonTracker) -> None:
    assert runs_out_at(mirror, 10, 5.0) == pytest.approx(5.2)
    assert mirror.queue_of("a", "another", 10, 5.0) is None


def test_a_chunk_that_is_being_made_counts(mirror: ActionHorizonTracker) -> None:
    runs_out_at(mirror, 10, 5.0)
    mirror.on_dispatch("a", "m", 7, 5.0)
    assert runs_out_at(mirror, 5, 5.1, 3, 0) == pytest.approx(5.5)


def test_a_request_that_ends_without_a_chunk_counts_no_longer(mirror: ActionHorizonTracker) -> None:
    runs_out_at(mirror, 10, 5.0)
    mirror.on_dispatch("a", "m", 7, 5.0)
    mirror.on_no_answer("a", "m", 7)
    assert runs_out_at(mirror, 5, 5.1, 3, 0) == pytest.approx(5.22)  # after the present action


def test_a_chunk_on_its_way_counts_until_it_is_acknowledged(mirror: ActionHorizonTracker) -> None:
    runs_out_at(mirror, 10, 5.0)
    mirror.on_dispatch("a", "m", 7, 5.0)
    mirror.on_answer("a", "m", 25, 5.0, 7, 5.1)
    assert runs_out_at(mirror, 4, 5.12, 3, 0) == pytest.approx(5.5)  # it had not come when this was observed
    assert runs_out_at(mirror, 17, 5.15, 7, 6) == pytest.approx(5.15 + 0.36)


def test_of_a_robot_that_acknowledges_nothing_a_chunk_counts_until_it_is_sent(mirror: ActionHorizonTracker) -> None:
    runs_out_at(mirror, 10, 5.0)
    mirror.on_dispatch("a", "m", 7, 5.0)
    assert runs_out_at(mirror, 5, 5.1) == pytest.approx(5.5)
    mirror.on_answer("a", "m", 25, 5.0, 7, 5.15)
    assert runs_out_at(mirror, 4, 5.2) == pytest.approx(5.28)


def test_a_chunk_under_way_is_played_after_what_is_left_by_a_robot_that_goes_on(mirror: ActionHorizonTracker) -> None:
    """It stood for 0.1 s when the chunk was observed; one that plays by time would have 0.4 s of it."""
    runs_out_at(mirror, 0, 5.0)
    mirror.on_dispatch("a", "m", 7, 5.0, 0.5)
    assert runs_out_at(mirror, 0, 5.1, 3, 0) == pytest.approx(5.6)
    mirror.on_answer("a", "m", 25, 5.0, 7, 5.15)
    assert runs_out_at(mirror, 0, 5.14, 3, 0) == pytest.approx(5.65)  # observed before it came
    assert runs_out_at(mirror, 20, 5.2, 3, 0) == pytest.approx(5.2 + 0.42)  # it has come


def test_acknowledged_chunks_say_how_long_an_answer_is_on_its_way(mirror: ActionHorizonTracker) -> None:
    for number in range(1, 40):
        now = 5.0 + number
        runs_out_at(mirror, 10, now, number - 1, 8)  # the eighth action of the last one was the first played: 0.16 s
        mirror.on_dispatch("a", "m", number, now)
        took_s = 5.0 if number == 31 else 0.1 + 0.001 * (number % 10)
        mirror.on_answer("a", "m", 25, now, number, now + took_s)
    queue = mirror.queue_of("a", "m", 10, 50.0, 39, 8)
    assert queue is not None
    assert queue.transit_s == pytest.approx(0.0)  # of one that was sent late, the shortest
    assert queue.lag_s == pytest.approx(0.06)  # the longest but one


def test_chunks_under_way_are_bounded(mirror: ActionHorizonTracker) -> None:
    runs_out_at(mirror, 10, 5.0)
    for number in range(1, 100):
        mirror.on_dispatch("a", "m", number, float(number))
    assert runs_out_at(mirror, 0, 100.0, 98, 0) == pytest.approx(100.0)  # of 99 alone, long over
    mirror.forget("a")
    mirror.on_dispatch("a", "m", 1, 0.0)
    mirror.on_no_answer("a", "m", 1)
    assert len(mirror) == 1


def test_a_rate_so_low_that_its_period_is_infinite_gives_a_time_all_the_same() -> None:
    horizon = ActionHorizonTracker()
    horizon.on_answer("a", "m", 10, 4.0)
    assert horizon.on_request("a", "m", 0, math.inf, 5.0) is not None
    queue = horizon.queue_of("a", "m", 0, 5.0)
    assert queue is not None
    assert all(math.isfinite(value) for value in (queue.runs_out_at, queue.lasts_s, queue.period_s))
