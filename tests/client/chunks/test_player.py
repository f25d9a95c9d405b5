"""The player with a controlled clock: requests in time, actions in order, starved steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.client.chunks.player import Player

RATE_HZ = 50.0


class Drive:
    """A player, and a server that answers each observation after so many steps with `horizon` actions.

    An action is the number of those executed before it, so that it can be seen whether the right one is played.
    """

    def __init__(self, horizon: int, latency: Callable[[int], int | None], **options: Any) -> None:
        self.player = Player(RATE_HZ, **options)
        self.horizon = horizon
        self.latency = latency
        self.now = 100.0
        self.step = self.executed = 0
        self.interval_s = 0.0
        self.asked: list[int] = []
        self.inputs: list[dict[str, Any]] = []
        self.remaining: list[int] = []
        self.coming: list[tuple[int, int, int]] = []  # at which step, request id, its first action

    def one(self) -> np.ndarray | None:
        for arrival in [one for one in self.coming if one[0] <= self.step]:
            self.coming.remove(arrival)
            _, request_id, begin = arrival
            actions = np.arange(begin, begin + self.horizon, dtype=np.float32)[:, np.newaxis]
            self.player.answered(request_id, actions, self.now)
        if self.player.wants_chunk(self.now, self.interval_s):
            self.inputs.append(self.player.rtc_values())
            self.remaining.append(self.player.steps_remaining())
            request_id = 1000 + len(self.asked)
            self.asked.append(self.step)
            self.player.asked(request_id, self.now)
            delay = self.latency(len(self.asked) - 1)
            if delay is not None:
                self.coming.append((self.step + delay, request_id, self.executed))
        self.executed += self.player.actions_left() > 0
        action = self.player.play()
        self.step += 1
        self.now += 1 / RATE_HZ
        return action

    def run(self, steps: int) -> list[float | None]:
        actions = [self.one() for _ in range(steps)]
        return [None if action is None else float(action[0]) for action in actions]


def test_before_the_first_chunk_there_is_no_action_and_then_its_first() -> None:
    drive = Drive(horizon=20, latency=lambda number: 3)
    assert drive.run(8) == [None, None, None, 0, 1, 2, 3, 4]
    assert drive.asked == [0]
    assert drive.player.stats.delay_steps == 3


def test_the_next_chunk_is_asked_for_so_that_it_is_there_before_the_end() -> None:
    drive = Drive(horizon=20, latency=lambda number: 3)
    drive.run(23)
    # Its 20 steps begin at step 3 and end after step 22; a round trip takes 3, and one is kept in hand.
    assert drive.asked == [0, 19]
    assert drive.remaining[1] == 3


@given(latency=st.integers(0, 10), spare=st.integers(3, 20), jitter=st.lists(st.integers(0, 2), max_size=30))
def test_with_a_steady_server_no_step_is_starved_and_each_has_its_own_action(
    latency: int, spare: int, jitter: list[int]
) -> None:
    # The longest round trip is seen first, so that it is among those that count. With one request under way at a time
    # a chunk must last two of them: one until it is there, and one until the next is.
    delays = [latency + 2, *[latency + one for one in jitter]]
    drive = Drive(horizon=2 * (latency + 2) + spare, latency=lambda number: delays[number % len(delays)], quantile=1.0)
    actions = drive.run(200)
    assert actions == [None] * (latency + 2) + list(range(198 - latency))
    assert drive.player.stats.starved_steps == 0


@given(
    st.lists(st.one_of(st.none(), st.integers(0, 15)), min_size=1, max_size=20),
    st.integers(1, 12),
    st.sampled_from(["replace", "average", "ensemble"]),
)
def test_every_step_has_one_action_or_is_starved(delays: list[int | None], horizon: int, merge: str) -> None:
    drive = Drive(horizon, lambda number: delays[number % len(delays)], merge=merge)
    actions = drive.run(150)
    stats = drive.player.stats
    before = next((number for number, action in enumerate(actions) if action is not None), 150)
    assert stats.steps == 150
    assert None not in actions[before:]
    assert before + stats.starved_steps <= 150
    # Whatever is late or blended in, no action is played that belongs to a step to come.
    assert all(action <= step for step, action in enumerate(actions) if action is not None)
    assert stats.chunks + stats.outdated + stats.lost <= stats.asked
    assert stats.longest_starved_steps <= stats.starved_steps


def test_a_starved_step_holds_the_last_action_and_is_counted_and_reported() -> None:
    inputs: list[int] = []
    drive = Drive(horizon=4, latency=lambda number: None if number else 0, on_starved=inputs.append)
    actions = drive.run(11)
    assert actions[:5] == [None, 0, 1, 2, 3]
    stats = drive.player.stats
    assert (stats.starved_episodes, stats.longest_starved_steps, inputs) == (1, 6, list(range(1, 7)))
    assert actions[5:] == [3] * 6


@pytest.mark.parametrize(
    ("options", "played"),
    [
        ({"starved": "stop"}, 0.0),
        ({"starved": "stop", "stop_action": np.array([7.0])}, 7.0),
        ({"starved": lambda last, steps: last / (1 + steps)}, 1.5),
    ],
)
def test_starved_it_does_what_the_user_chose(options: dict[str, Any], played: float) -> None:
    drive = Drive(horizon=4, latency=lambda number: 50 if number else 0, **options)
    assert drive.run(6)[-1] == played


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"starved": "stop", "stop_action": [1.0]},
        {"on_starved": "hold", "hold_ms": 0},
        {"on_starved": "zero", "hold_ms": 0},
        {"on_starved": lambda last, steps: last, "hold_ms": 0},
        {"starved": lambda last, steps: last},
        {"action_spec": {"max_change": 1.0}},
    ],
)
def test_what_a_robot_changes_in_an_action_changes_no_other(options: dict[str, Any]) -> None:
    """As one that turns it into units of its own in place."""

    def actions(factor: float) -> list[float]:
        drive, played = Drive(3, lambda number: 0 if number < 2 else None, **options), []
        for _ in range(20):
            if (action := drive.one()) is not None:
                played.append(float(action[0]))
                action *= factor
        return played

    assert actions(2.0) == actions(1.0)


def test_a_function_cannot_change_the_action_that_is_held() -> None:
    def double(last: np.ndarray, steps: int) -> np.ndarray:
        last *= 2
        return last

    drive = Drive(3, lambda number: 0 if number == 0 else None, starved=double)
    assert drive.run(7)[3:] == [2.0, 4.0, 4.0, 4.0]


def test_arms_whose_actions_come_in_another_order_are_not_mistaken() -> None:
    player, left, right = Player(RATE_HZ), np.zeros((2, 1)), np.ones((2, 1))
    for number, chunk in enumerate(({"left": left, "right": right}, {"right": right, "left": left}), start=1):
        player.asked(number, 100.0)
        player.answered(number, chunk, 100.0)
        assert player.play() == {"left": 0, "right": 1}
        assert player.play() == {"left": 0, "right": 1}


def test_a_stop_action_is_played_before_the_first_chunk_too() -> None:
    drive = Drive(horizon=8, latency=lambda number: 2, stop_action=np.array([7.0]))
    assert drive.run(3) == [7.0, 7.0, 0.0]


def test_an_execution_horizon_has_chunks_asked_for_before_they_are_needed() -> None:
    drive = Drive(horizon=50, latency=lambda number: 2, execution_horizon=10)
    drive.run(60)
    gaps = np.diff(drive.asked)
    assert set(gaps[1:]) == {8}  # after 10 steps of a chunk the next one is there


def test_an_execution_horizon_counts_what_is_executed_of_a_chunk() -> None:
    """The first chunk comes after ten steps without an action, which are none of it."""
    drive = Drive(horizon=50, latency=lambda number: 2 if number else 10, execution_horizon=30)
    drive.run(60)
    assert drive.asked[1] == 10 + 30 - 10  # so early that the next one is there after 30, by the first round trip


def test_the_servers_rate_is_kept_unless_that_would_starve() -> None:
    drive = Drive(horizon=50, latency=lambda number: 2, execution_horizon=10)
    drive.interval_s = 0.5
    drive.run(120)
    assert min(np.diff(drive.asked)) in (25, 26)
    drive = Drive(horizon=10, latency=lambda number: 2)
    drive.interval_s = 5.0
    drive.run(60)
    assert drive.player.stats.starved_steps == 0


def test_an_ensemble_asks_at_every_step() -> None:
    drive = Drive(horizon=20, latency=lambda number: 3, merge="ensemble")
    actions = drive.run(30)
    assert drive.asked == list(range(30))
    assert actions[3:] == list(range(27))


def test_with_rtc_an_observation_carries_what_will_have_been_executed() -> None:
    drive = Drive(horizon=20, latency=lambda number: 4, rtc=True)
    drive.run(40)
    first, second = drive.inputs[:2]
    assert first == {}
    assert drive.asked[1] == 4 + 15
    assert second["prev_chunk_left_over"][:, 0].tolist() == [15, 16, 17, 18, 19]
    assert (second["inference_delay"], second["execution_horizon"]) == (4, 19)
    assert second["inference_delay"].dtype == np.int32


def test_errors_are_counted_and_the_next_step_asks_again() -> None:
    player = Player(RATE_HZ)
    for number in range(3):
        now = 100.0 + number / RATE_HZ
        assert player.wants_chunk(now)
        player.asked(number, now)
        assert not player.wants_chunk(now)  # once a step
        player.failed(number, "RequestExpired")
        player.play()
    assert player.stats.refused == {"RequestExpired": 3}


@pytest.mark.parametrize("error", ["InvalidChunk", "ModelFailed", "UnknownModel", "InvalidObservation", "ModelFailing"])
def test_where_each_request_fails_it_asks_ever_more_rarely_and_goes_on_when_one_does_not(error: str) -> None:
    player, asked_at = Player(RATE_HZ), list[float]()
    for step in range(250):
        now = 100.0 + step / RATE_HZ
        if player.wants_chunk(now):
            asked_at.append(now)
            player.asked(len(asked_at), now)
            player.failed(len(asked_at), error)
        player.play()
    assert np.diff(asked_at).tolist() == pytest.approx([0.02, 0.04, 0.08, 0.16, 0.32, *[0.5] * (len(asked_at) - 6)])
    now += 0.5
    assert player.wants_chunk(now)
    player.asked(100, now)
    player.answered(100, np.ones((1, 1)), now)
    player.play()
    assert player.wants_chunk(now + 0.02)
    player.asked(101, now + 0.02)
    player.failed(101, error)
    player.play()
    assert player.wants_chunk(now + 0.04)


def test_a_request_without_an_answer_is_lost_after_a_second() -> None:
    drive = Drive(horizon=20, latency=lambda number: 1 if number else None)
    drive.run(60)
    assert drive.asked[:2] == [0, 51]
    assert drive.player.stats.lost == 1


def test_the_answer_to_a_lost_request_is_outdated() -> None:
    drive = Drive(horizon=200, latency=lambda number: 1 if number else 70)
    drive.run(80)
    assert drive.player.stats.lost == 1
    assert drive.player.stats.outdated == 1


def test_a_policy_of_single_actions_is_held_to_its_newest() -> None:
    drive = Drive(horizon=1, latency=lambda number: 2)
    actions = drive.run(12)
    assert actions == [None, None, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert drive.player.stats.starved_steps == 5


def test_steps_that_the_loop_missed_are_skipped() -> None:
    drive = Drive(horizon=20, latency=lambda number: 0)
    drive.run(3)
    drive.player.skip(4)
    assert drive.player.play()[0] == 6
    assert drive.player.stats.skipped_steps == 4


@pytest.mark.parametrize(("missed", "then"), [(10, 0.0), (3, 1.0)])
def test_what_the_loop_missed_counts_in_how_long_an_action_is_held(missed: int, then: float) -> None:
    """A robot by velocities goes on meanwhile."""
    drive = Drive(2, lambda number: 0 if number == 0 else None, on_starved="zero", hold_ms=200)
    assert drive.run(3) == [None, 0.0, 1.0]
    drive.player.skip(missed)
    assert drive.run(1) == [then]
    assert drive.player.stats.starved_steps == 1


def test_after_a_pause_of_the_control_loop_an_observation_is_made_at_once() -> None:
    """What is left to play was seen before the pause."""
    drive = Drive(horizon=50, latency=lambda number: 2)
    drive.run(10)
    assert len(drive.asked) == 1
    drive.now += 0.4
    drive.run(1)
    assert len(drive.asked) == 1
    drive.now += 3.0
    assert drive.run(5) == [9, 10, 11, 12, 13]
    assert drive.asked == [0, 11]


def test_a_slow_control_rate_is_no_pause() -> None:
    player = Player(1.0)
    player.asked(1, now=0.0)
    player.answered(1, np.zeros((50, 1)), now=0.1)
    asks = []
    for step in range(20):
        asks.append(player.wants_chunk(float(step)))
        player.play()
    assert not any(asks)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"control_rate_hz": 0}, "control_rate_hz: expected a finite number above 0, got 0"),
        ({"starved": "freeze"}, "starved: expected 'hold', 'stop' or a function, got 'freeze'"),
        ({"execution_horizon": 0}, "execution_horizon: expected a whole number of at least 1, or None, got 0"),
        ({"quantile": 0}, "quantile: expected a number above 0 and at most 1, got 0"),
        ({"merge": "average", "rtc": True}, "merge: with rtc the policy itself makes chunks agree"),
    ],
)
def test_a_bad_argument_is_named(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Player(**{"control_rate_hz": RATE_HZ, **options})


@pytest.mark.parametrize(
    "options",
    [
        {"control_rate_hz": "50"},
        {"execution_horizon": 2.5},
        {"execution_horizon": True},
        {"quantile": "high"},
        {"refresh_ms": "20"},
        {"hold_ms": "20"},
        {"hold_ms": True},
        {"merge": 3},
        {"starved": 3},
        {"on_starved": 3},
    ],
)
def test_an_argument_of_another_type_is_named_when_the_player_is_made(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(TypeError, match=f"^{name}: expected .*, got {value!r}$"):
        Player(**{"control_rate_hz": RATE_HZ, **options})


@pytest.mark.parametrize("stop", [[0.0, np.nan], np.full(2, np.inf), {"action.arm": [np.nan]}, "stop", [None]])
def test_a_robot_is_not_stopped_by_what_are_no_finite_numbers(stop: Any) -> None:
    with pytest.raises(ValueError, match=r"^stop_action: expected finite numbers"):
        Player(RATE_HZ, stop_action=stop)


def test_numbers_of_numpy_are_numbers() -> None:
    player = Player(np.float32(50), execution_horizon=np.int64(5), hold_ms=np.float64(20), stop_action=[0, 0])
    assert player.period_s == pytest.approx(0.02)


@pytest.mark.parametrize("merge", ["average", "ensemble", "replace"])
def test_chunks_of_two_versions_of_a_model_are_not_merged(merge: str) -> None:
    player = Player(RATE_HZ, merge=merge)
    ones = np.ones((10, 1), np.float32)
    for number, (value, version) in enumerate([(1.0, "v1"), (5.0, "v2"), (9.0, "v1")]):
        player.asked(number, 100.0)
        player.answered(number, value * ones, 100.0, version)
        action = player.play()
        assert action is not None
        assert action[0] == value
    player.asked(3, 100.0)
    player.play()
    player.asked(4, 100.0)
    player.answered(4, 2 * ones, 100.0, "v2")
    player.answered(3, 3 * ones, 100.0, "v1")  # of before the change
    assert player.stats.outdated == 1
    assert player.play() == 2.0


# Fresh observations, and what the robot says of its queue


def test_where_the_server_asks_for_it_an_observation_is_made_anew_at_the_next_step() -> None:
    drive = Drive(horizon=20, latency=lambda number: None if number == 0 else 3)
    drive.run(2)
    drive.player.outdated(1000)
    drive.run(1)
    assert drive.asked == [0, 2]
    drive.player.outdated(1000)  # a newer one has its place already
    drive.run(1)
    assert drive.asked == [0, 2]
    assert drive.player.stats.renewed == 1
    drive.run(3)
    drive.player.outdated(1001)  # it is answered: nothing to make anew
    drive.run(1)
    assert drive.asked == [0, 2]


def test_no_observation_is_made_anew_once_the_one_that_waited_is_answered() -> None:
    drive = Drive(horizon=20, latency=lambda number: 3)
    drive.run(3)
    drive.player.outdated(1000)  # says the server, whose answer comes at the same step
    drive.run(12)
    assert drive.asked == [0]


def test_an_observation_is_refreshed_while_no_answer_comes() -> None:
    drive = Drive(horizon=20, latency=lambda number: 9 if number < 3 else 3, refresh_ms=60.0)
    drive.run(10)
    assert drive.asked == [0, 3, 6, 9]
    assert drive.player.stats.refreshed == 3


def test_an_answer_ends_what_its_observation_had_replaced() -> None:
    drive = Drive(horizon=40, latency=lambda number: 4 if number == 1 else None, refresh_ms=40.0)
    drive.run(40)
    assert drive.player.stats.chunks == 1
    assert drive.player.stats.lost == 0


@pytest.mark.parametrize("refresh_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_a_wrong_refresh_is_named(refresh_ms: float) -> None:
    with pytest.raises(ValueError, match="refresh_ms: expected a finite number above 0"):
        Player(RATE_HZ, refresh_ms=refresh_ms)


def test_a_chunk_is_acknowledged_once_an_action_of_it_was_played() -> None:
    drive = Drive(horizon=20, latency=lambda number: 3)
    drive.run(3)
    assert drive.player.acknowledgement() == {}
    drive.run(1)
    assert drive.player.acknowledgement() == {"played_id": 1000, "played_from": 3}
    drive.run(20)
    assert drive.player.acknowledgement() == {"played_id": 1001, "played_from": 3}


def test_an_observation_is_made_anew_at_the_last_step_before_its_turn() -> None:
    drive = Drive(25, lambda number: None)
    drive.run(1)
    drive.player.outdated(1000, drive.now, turn_in_ms=200.0)
    drive.run(30)
    assert drive.asked[1] in (8, 9)  # one step to travel in, and one that the notice may have waited
    drive.player.outdated(1001, drive.now)
    drive.run(1)
    assert drive.asked[2] == 31


def test_a_suggested_horizon_goes_before_the_own_one() -> None:
    drive = Drive(25, lambda number: 2, execution_horizon=20)
    drive.run(30)
    drive.player.suggested_horizon = 8
    drive.run(60)
    assert set(np.diff(drive.asked[-5:])) == {8 - 2}  # it arrives two steps later, at the eighth
    drive.player.suggested_horizon = None
    drive.run(100)
    assert set(np.diff(drive.asked[-3:])) == {20 - 2}


def test_a_suggested_horizon_does_not_let_a_robot_starve() -> None:
    drive = Drive(10, lambda number: 3, execution_horizon=5)
    drive.run(20)
    drive.player.suggested_horizon = 10_000
    drive.run(60)
    assert drive.player.stats.starved_steps == 0
