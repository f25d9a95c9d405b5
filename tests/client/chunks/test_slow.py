"""Policies slower than their chunks, late answers, stops and resumption, new episodes, by a made-up clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferential.client.chunks.player import Player
from inferential.proto.actions import BadActions

RATE_HZ = 50.0
PERIOD_S = 1 / RATE_HZ
HORIZON = 50


class Arm:
    """A robot whose policy moves it on by one with each action, from where it stood when it was observed.

    Args:
        trip_s: how long the answer to the n-th observation takes.
        horizon: actions in a chunk.
        server_share: how much of a round trip the server says that it took; None: it says nothing.
    """

    def __init__(
        self,
        trip_s: Callable[[int], float],
        horizon: int = HORIZON,
        server_share: float | None = None,
        rate_hz: float = RATE_HZ,
        **options: Any,
    ) -> None:
        self.player = Player(rate_hz, **options)
        self.period_s = 1 / rate_hz
        self.horizon = horizon
        self.trip_s = trip_s
        self.server_share = server_share
        self.now = 100.0
        self.place = 0.0
        self.asked = 0
        self.coming: list[tuple[float, int, float, float]] = []  # at, request id, where it stood, its trip
        self.places: list[float | None] = []
        self.heard_s_ago: Callable[[], float] | None = None

    def step(self) -> Any:
        self.coming.sort()
        while self.coming and self.coming[0][0] <= self.now + 1e-9:
            self.answer(*self.coming.pop(0)[1:])
        if self.player.wants_chunk(self.now, heard_s_ago=self.heard_s_ago):
            self.asked += 1
            trip = self.trip_s(self.asked - 1)
            self.player.asked(self.asked, self.now)
            if math.isfinite(trip):
                self.coming.append((self.now + trip, self.asked, self.place, trip))
        action = self.player.play()
        self.place = self.place if action is None else float(action[0])
        self.places.append(None if action is None else self.place)
        self.now += self.period_s
        return action

    def answer(self, request_id: int, place: float, trip: float) -> None:
        actions = np.arange(place + 1, place + 1 + self.horizon, dtype=np.float32)[:, np.newaxis]
        server_ms = math.nan if self.server_share is None else self.server_share * trip * 1e3
        self.player.answered(request_id, actions, self.now, server_ms=server_ms)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / self.period_s)):
            self.step()

    def moved(self) -> int:
        """Steps in which it moved."""
        places = [place for place in self.places if place is not None]
        return int(np.count_nonzero(np.diff(places)))

    def largest_step(self) -> float:
        places = [place for place in self.places if place is not None]
        return float(np.abs(np.diff(places)).max(initial=0.0))


@pytest.mark.parametrize("trip_s", [0.02, 0.08, 0.3, 0.45, 0.55, 0.9, 1.0, 1.2, 2.5, 10.0, 26.0])
def test_a_policy_of_any_speed_moves_the_robot_all_the_time_or_slowly(trip_s: float) -> None:
    arm = Arm(lambda number: trip_s, server_share=1.0)
    seconds = max(20 * trip_s, 20.0)
    arm.heard_s_ago = lambda: 0.5  # the server answers the link's questions, only the model is slow
    arm.run(seconds)
    trip, steps = trip_s * RATE_HZ, seconds * RATE_HZ
    # All the time where a chunk lasts two round trips; else half a chunk for each, or a whole one before each.
    wanted = 1.0 if trip <= HORIZON / 2 - 1 else max(HORIZON / 2 / (trip + 2), HORIZON / (HORIZON + trip + 3))
    assert arm.moved() / steps > 0.9 * wanted
    assert arm.player.stats.lost == 0
    assert arm.largest_step() <= 1.0


@pytest.mark.parametrize(("index", "resumes_with"), [("executed", 2.0), ("time", 7.0)])
def test_a_robot_that_ran_out_goes_on_where_it_stands_or_by_time(index: Any, resumes_with: float) -> None:
    player = Player(RATE_HZ, index=index)
    player.asked(1, 0.0)
    player.answered(1, np.zeros((3, 1)), 0.0)
    player.play()
    player.asked(2, 0.0)
    for _ in range(7):
        player.play()
    player.answered(2, np.arange(20.0)[:, np.newaxis], 0.0)
    assert player.stats.starved_steps == 5  # of the seven since it was observed
    for _ in range(5):  # blended in over as many
        player.play()
    assert player.play() == resumes_with + 5
    assert player.stats.late_steps == (6 if index == "executed" else 0)


def test_a_policy_that_slows_down_is_followed_at_once_and_no_step_jumps() -> None:
    arm = Arm(lambda number: 0.08 if number < 20 else 1.3, server_share=1.0)
    arm.run(40)
    late = arm.places[-int(13 * RATE_HZ) :]
    # A cycle takes 1.3 s and the 50 actions that are played meanwhile or after it.
    assert np.count_nonzero(np.diff(late)) >= 0.9 * 13 * RATE_HZ * HORIZON / (HORIZON + 65 + 3)  # type: ignore[arg-type]
    gaps = [at for at, (a, b) in enumerate(zip(arm.places, arm.places[1:], strict=False)) if a != b]
    assert max(np.diff(gaps)) <= 2 * 1.3 * RATE_HZ
    assert arm.largest_step() <= 1.0


def test_a_policy_that_becomes_fast_again_is_asked_in_time_again() -> None:
    arm = Arm(lambda number: 1.3 if number < 5 else 0.08, server_share=1.0)
    arm.run(20)
    before = arm.player.stats.starved_steps
    arm.run(20)
    assert arm.player.stats.starved_steps - before <= 2


def test_while_the_server_is_heard_of_a_slow_answer_is_waited_for() -> None:
    arm = Arm(lambda number: 26.0)
    for _ in range(int(28 * RATE_HZ)):
        arm.heard_s_ago = lambda: arm.now % 1.0
        arm.step()
    assert (arm.asked, arm.player.stats.chunks, arm.player.stats.lost) == (2, 1, 0)


def test_where_nothing_is_heard_it_is_asked_anew_ever_more_patiently_and_the_late_answer_is_played() -> None:
    arm = Arm(lambda number: 10.0 if number == 0 else math.inf)
    arm.run(12)
    assert (arm.asked, arm.player.stats.lost, arm.player.stats.chunks) == (4, 3, 1)  # after 1, 3 and 7 s
    assert arm.moved() == HORIZON - 1


def test_an_answer_that_was_long_on_the_network_is_not_played_and_another_is_asked_for_at_once() -> None:
    arm = Arm(lambda number: 0.1 if number != 7 else 5.0, server_share=0.0)
    arm.run(3)
    arm.heard_s_ago = lambda: 0.5
    arm.run(9)
    assert arm.player.stats.outdated == 1
    stale_at = next(at for at in range(len(arm.places)) if arm.places[at : at + 100] == [arm.places[at]] * 100)
    resumed = next(at for at in range(stale_at, len(arm.places)) if arm.places[at] != arm.places[stale_at])
    fresh_after = resumed * PERIOD_S - (arm.places.index(arm.places[stale_at]) * PERIOD_S)
    assert fresh_after < 5.0 + 0.1 + 0.1


def test_while_the_network_is_cut_observations_stay_fresh_and_the_answer_to_the_newest_is_played() -> None:
    cut, mended = 103.0, 108.0
    arm = Arm(lambda number: 0.1, server_share=0.1)
    arm.trip_s = lambda number: 0.1 if not cut <= arm.now < mended else mended + 0.1 - arm.now
    arm.heard_s_ago = lambda: arm.now - cut if cut <= arm.now < mended else 0.0
    for _ in range(round((mended - 100.0 + 0.11) / PERIOD_S)):
        arm.step()
    stopped = arm.player.stats.starved_steps
    arm.run(2)
    assert arm.player.stats.starved_steps - stopped <= 2
    assert arm.player.stats.refreshed == pytest.approx(30, abs=12)
    assert arm.player.stats.lost == 0


def test_in_a_silence_no_observation_is_older_than_a_tenth_of_a_second_though_steps_come_a_little_early() -> None:
    player, asked_at = Player(RATE_HZ), [100.0]
    player.asked(0, 100.0)
    for step in range(1, 500):
        player.play()
        now = 100.0 + step * 0.0199
        if player.wants_chunk(now, heard_s_ago=lambda: 1.6):
            player.asked(step, now)
            asked_at.append(now)
    assert np.diff(asked_at).max() <= 0.1
    assert np.diff(asked_at).min() >= 0.08


def test_of_what_an_outage_has_held_up_nothing_is_played_however_much_it_is() -> None:
    """So many old answers must not make old ones usual."""
    player = Player(50.0)
    for number in range(1, 6):  # quick ones
        player.asked(number, 1.0 * number)
        player.answered(number, np.full((50, 1), float(number)), 1.0 * number + 0.1, server_ms=30.0)
        for _ in range(50):
            player.play()
    for number in range(10, 40):
        player.asked(number, 6.0 + 0.1 * (number - 10))
        for _ in range(5):
            player.play()
    back_at = 11.0
    played = [
        player.answered(number, np.full((50, 1), 100.0), back_at + 0.01 * (number - 10), server_ms=30.0)
        for number in range(10, 40)
    ]
    assert not any(played)
    player.asked(50, back_at + 0.4)
    assert player.answered(50, np.full((50, 1), 7.0), back_at + 0.6, server_ms=30.0)


# Stopping and resuming


def stops(seconds: float = 1.0, **options: Any) -> Arm:
    """An arm whose second answer never comes, after that; the actions of the first are played in steps 2 to 11."""
    arm = Arm(lambda number: 0.04 if number == 0 else math.inf, horizon=10, **options)
    arm.run(seconds)
    return arm


def test_the_last_action_is_held_for_200_ms_and_then_the_robot_is_stopped() -> None:
    arm = stops(on_starved="zero")
    assert arm.places[10:22] == [9.0, *[10.0] * 11]
    assert set(arm.places[22:]) == {0.0}
    stats = arm.player.stats
    assert stats.stopped_steps == stats.starved_steps - 10


@pytest.mark.parametrize(("hold_ms", "held"), [(0.0, 0), (40.0, 2), (100.0, 5), (None, 10)])
def test_hold_ms_says_for_how_long_an_action_is_held(hold_ms: float | None, held: int) -> None:
    arm = stops(on_starved="zero", hold_ms=hold_ms)
    assert arm.places[12 : 12 + held + 1] == [10.0] * held + [0.0]


def test_a_slow_control_rate_holds_for_two_of_its_steps() -> None:
    arm = Arm(lambda number: 0.0 if number == 0 else math.inf, horizon=3, rate_hz=2.0, on_starved="zero")
    arm.run(6)
    assert arm.places[1:7] == [1.0, 2.0, 3.0, 3.0, 3.0, 0.0]


@pytest.mark.parametrize(
    ("on_starved", "played"),
    [("hold", 10.0), (None, 10.0), (lambda last, steps: last / 2, 5.0), (lambda last, steps: None, 10.0)],
)
def test_on_starved_says_what_is_played_then(on_starved: Any, played: float) -> None:
    assert stops(on_starved=on_starved).places[-1] == played


def test_a_function_of_the_steps_alone_is_called_at_each_and_may_stop_the_robot() -> None:
    called: list[int] = []

    def stop(steps: int) -> Any:
        called.append(steps)
        return np.array([3.0], np.float32) if steps > 12 else None

    arm = stops(0.6, on_starved=stop)
    assert called == list(range(1, len(called) + 1))
    assert arm.places[22:26] == [10.0, 10.0, 3.0, 3.0]


@given(
    stopped=st.integers(2, 200),
    rate_hz=st.sampled_from([5.0, 20.0, 50.0, 200.0]),
    stop=st.sampled_from(["hold", "zero"]),
)
@settings(max_examples=40)
def test_a_robot_that_stopped_is_blended_in_by_steps_of_bounded_size(stopped: int, rate_hz: float, stop: Any) -> None:
    player = Player(rate_hz, on_starved=stop)
    ones = np.ones((3, 2), np.float32)
    player.asked(1, 0.0)
    player.answered(1, ones, 0.0)
    for _ in range(3 + stopped):
        player.play()
    before = 1.0 if stop == "hold" or stopped <= max(0.2 * rate_hz, 2) else 0.0
    player.asked(2, 10.0)
    player.answered(2, np.full((1000, 2), 12.0, np.float32), 10.0)
    played = [before, *(float(player.play()[0]) for _ in range(1000))]
    blend = min(stopped - 1, math.ceil(0.2 * rate_hz))
    assert np.diff(played).max() <= (12.0 - before) / (blend + 1) * 1.001
    assert min(np.diff(played)) >= -1e-6
    assert played[blend + 1] == 12.0


def test_max_change_bounds_every_step_that_is_played() -> None:
    arm = Arm(
        lambda number: 0.04 if number != 3 else 1.0,
        horizon=10,
        action_spec={"max_change": 1.5},
        on_starved="zero",
        index="time",
    )
    arm.run(5)
    assert arm.player.stats.stopped_steps > 0
    assert arm.largest_step() <= 1.5 + 1e-5


def plays(player: Player, chunks: list[Any], steps: int) -> list[Any]:
    """What it plays of chunks that come one after the other."""
    played = []
    for number, chunk in enumerate(chunks, start=1):
        player.asked(number, float(number))
        player.answered(number, chunk, number + 0.02)
        played += [player.play() for _ in range(steps)]
    return played


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float32])
@pytest.mark.parametrize("most", [0.5, 1.5, 2.5])
def test_max_change_bounds_actions_of_every_dtype_upwards_and_downwards(dtype: Any, most: float) -> None:
    player = Player(RATE_HZ, action_spec={"max_change": most}, on_starved="zero")
    chunks = [np.full((5, 1), place, dtype) for place in (10, 0, 10)]
    played = plays(player, chunks, 40)
    assert {one.dtype for one in played} == {np.dtype(dtype)}
    changes = np.abs(np.diff([float(one[0]) for one in played]))
    assert changes.max() == (most if dtype in (np.float16, np.float32) else math.floor(most))


def test_max_change_bounds_whole_numbers_beside_others() -> None:
    player = Player(RATE_HZ, action_spec={"arm": {"max_change": 0.25}, "hand": {"max_change": 1.5}})
    chunks = [
        {"arm": np.full((20, 2), place, np.float32), "hand": np.full(20, 10 * place, np.uint8)} for place in (1, 0)
    ]
    played = plays(player, chunks, 12)
    assert [int(one["hand"]) for one in played[11:]] == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0]
    assert [float(one["arm"][1]) for one in played[11:17]] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert {one["hand"].dtype for one in played} == {np.dtype(np.uint8)}


def test_what_no_whole_number_is_within_reach_of_is_played_as_a_float() -> None:
    player = Player(RATE_HZ, action_spec={"max_change": 0.25})
    played = plays(player, [np.full((5, 1), 0.5), np.full((5, 1), 3)], 4)
    assert [float(one[0]) for one in played[3:]] == [0.5, 0.75, 1.0, 1.0, 1.0]


def test_max_change_bounds_the_first_chunk_after_the_stop_action() -> None:
    player = Player(RATE_HZ, action_spec={"max_change": 0.25}, stop_action=[0, 0])
    for _ in range(2):  # and in each episode
        assert player.play().tolist() == [0, 0]
        assert [float(one[0]) for one in plays(player, [np.ones((9, 2))], 4)] == [0.25, 0.5, 0.75, 1.0]
        player.reset()


@pytest.mark.parametrize("zero", [[0, 0], np.zeros(2, int), (0.0, 0.0), [False, False]])
def test_max_change_bounds_whole_numbers_that_a_function_returns_for_floats(zero: Any) -> None:
    player = Player(RATE_HZ, action_spec={"max_change": 0.25}, on_starved=lambda last, steps: zero, hold_ms=0)
    played = plays(player, [np.ones((1, 2), np.float32)], 6)
    assert [float(one[0]) for one in played] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


@pytest.mark.parametrize("merge", ["replace", "average", "ensemble"])
def test_chunks_of_booleans_are_played_and_not_blended(merge: str) -> None:
    player = Player(RATE_HZ, merge=merge)
    opened, played = np.array([[True, False]] * 3), []
    for number, chunk in ((1, opened), (2, ~opened)):
        player.asked(number, float(number))
        player.answered(number, chunk, number + 0.02)
        played += [player.play().tolist() for _ in range(10)]
    assert played == [[True, False]] * 10 + [[False, True]] * 10


@pytest.mark.parametrize(("first", "then"), [(np.int64, np.float32), (np.bool_, np.float64), (np.uint8, np.int16)])
def test_numbers_of_another_dtype_than_before_are_played_as_they_are(first: Any, then: Any) -> None:
    player, played = Player(RATE_HZ), []
    wanted = {"arm": np.asarray(0.7).astype(then), "hand": np.asarray(-3).astype(then)}
    for number, value in ((1, None), (2, wanted)):
        player.asked(number, float(number))
        chunk = {key: np.full((3, 1), one if value else 0, then if value else first) for key, one in wanted.items()}
        player.answered(number, chunk, number + 0.02)
        played = [player.play() for _ in range(3)]
    assert {key: float(one[0]) for key, one in played[-1].items()} == {key: float(one) for key, one in wanted.items()}


def test_a_rate_in_numpys_own_float_is_a_rate() -> None:
    assert type(Player(np.float32(50)).period_s) is float


def test_whole_numbers_without_a_sign_go_on_where_the_robot_stands() -> None:
    player = Player(RATE_HZ)
    for number, chunk in ((1, np.full((3, 1), 9, np.uint8)), (2, np.arange(8, 0, -1, dtype=np.uint8)[:, np.newaxis])):
        player.asked(number, float(number))
        player.answered(number, chunk, number + 0.02)
        played = [int(player.play()[0]) for _ in range(8)]
    assert played == [8, 7, 6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("options", [{}, {"action_spec": {"max_change": 1.0}}])
@pytest.mark.parametrize("chosen", [np.array([np.nan]), np.array([np.inf]), np.array(["brake"])])
def test_what_is_no_number_of_on_starved_reaches_the_robot_and_no_action_after_it(
    chosen: Any, options: dict[str, Any]
) -> None:
    player = Player(RATE_HZ, on_starved=lambda last, steps: chosen, **options)
    player.asked(1, 0.0)
    player.answered(1, np.ones((5, 1)), 0.0)
    starved = [player.play() for _ in range(30)]
    assert starved[-1] is chosen
    player.asked(2, 1.0)
    player.answered(2, np.ones((5, 1)), 1.0)
    assert player.play() == 1.0


@pytest.mark.parametrize("server_ms", [math.inf, -math.inf, 1e300, -1e300])
def test_a_time_on_the_server_that_is_none_harms_nothing(server_ms: float) -> None:
    player = Player(RATE_HZ)
    for number in range(1, 4):
        now = float(number)
        assert player.wants_chunk(now)
        player.asked(number, now)
        assert player.answered(number, np.ones((50, 1)), now + 0.1, server_ms=server_ms)
        played = [player.play() for _ in range(50)]
        assert all(action == 1.0 for action in played[:44])
    assert player.delay_steps() == 5


# Episodes, and everything together

EVENTS = ["step", "step", "step", "answer", "answer", "bad", "fail", "wait", "skip", "reset"]


def test_nothing_of_the_last_episode_is_played_in_the_next() -> None:
    player = Player(RATE_HZ)
    for request_id in (1, 2):
        player.asked(request_id, 0.0)
        player.answered(request_id, np.ones((20, 1)), 0.0)
        player.play()
    player.asked(3, 0.0)
    player.reset()
    assert player.wants_chunk(0.0)
    player.asked(4, 0.0)
    assert not player.answered(3, np.ones((20, 1)), 0.1)
    assert player.play() is None
    assert player.acknowledgement() == {}
    assert player.steps_remaining() == 0
    assert player.answered(4, np.full((20, 3), 2.0), 0.1)  # it may have another form, too
    assert player.play().tolist() == [2.0, 2.0, 2.0]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), merge=st.sampled_from(["replace", "average", "ensemble"]), horizon=st.integers(1, 60))
def test_whatever_comes_the_robot_plays_good_actions_and_never_raises(data: Any, merge: str, horizon: int) -> None:
    player = Player(RATE_HZ, merge=merge, action_spec={"shape": (2,), "max_change": 1.0}, on_starved="zero")
    now, number = 100.0, 0
    open_: list[int] = []
    before: Any = None
    chunks_before = 0  # of former episodes
    for _ in range(data.draw(st.integers(1, 60))):
        event = data.draw(
            st.sampled_from(["step", "step", "step", "answer", "answer", "bad", "fail", "wait", "skip", "reset"])
        )
        if event == "step":
            if player.wants_chunk(now):
                number += 1
                player.asked(number, now)
                open_.append(number)
            action = player.play()
            assert action is None or (action.shape == (2,) and np.isfinite(action).all())
            if action is not None and before is not None:
                assert np.abs(action - before).max() <= 1.0 + 1e-5
            before = before if action is None else action
            now += PERIOD_S
        elif event in ("answer", "bad") and open_:
            request_id = data.draw(st.sampled_from(open_))
            width = 2 if event == "answer" or player.stats.chunks == chunks_before else 3  # the first decides
            base = data.draw(st.floats(-50, 50))
            chunk = np.full((horizon, width), base, np.float32)
            server_ms = data.draw(st.sampled_from([math.nan, 0.0, 50.0, 30_000.0]))
            try:
                player.answered(request_id, chunk, now, server_ms=server_ms)
            except BadActions:
                assert width == 3
                player.failed(request_id, "InvalidChunk")
        elif event == "fail" and open_:
            player.failed(data.draw(st.sampled_from(open_)), "ModelFailed")
        elif event == "wait":
            now += data.draw(st.sampled_from([0.0, 0.01, 1.0, 40.0]))
        elif event == "skip":
            player.skip(data.draw(st.integers(1, 30)))
        elif event == "reset":
            player.reset()
            before, chunks_before = None, player.stats.chunks
    stats = player.stats
    assert stats.starved_steps + stats.late_steps <= stats.steps
    assert stats.stopped_steps <= stats.starved_steps
    assert player.open_requests <= 80
