"""The rhythm of clients."""

from __future__ import annotations

import math
import random
import time
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.tracking import CadenceTracker
from inferential.tracking.cadence import Rhythm


def ask(tracker: CadenceTracker, *times: float, model: str = "") -> None:
    for now in times:
        with patch.object(time, "monotonic", return_value=now):
            tracker.on_request("robot", model)


def test_of_an_unknown_client_nothing_is_known() -> None:
    tracker = CadenceTracker()
    assert tracker.learned_cadence("robot") is None
    assert tracker.confidence("robot") == 0.0
    assert tracker.time_since_last("robot") == math.inf
    assert tracker.time_until_next("robot") == 0.0
    assert not tracker.is_overdue("robot")


def test_the_first_interval_sets_the_cadence() -> None:
    tracker = CadenceTracker(alpha=0.1)
    ask(tracker, 1.0)
    assert tracker.learned_cadence("robot") is None
    ask(tracker, 1.1)
    assert tracker.learned_cadence("robot") == pytest.approx(0.1)


def test_later_intervals_move_it_by_their_weight() -> None:
    tracker = CadenceTracker(alpha=0.5)
    ask(tracker, 0.0, 0.1, 0.3)
    assert tracker.learned_cadence("robot") == pytest.approx(0.15)


def test_the_next_request_comes_nearer_and_is_then_overdue() -> None:
    tracker = CadenceTracker(overdue_multiplier=1.5)
    ask(tracker, 0.0, 0.1)
    with patch.object(time, "monotonic", return_value=0.15):
        assert tracker.time_until_next("robot") == pytest.approx(0.05)
        assert tracker.time_since_last("robot") == pytest.approx(0.05)
        assert not tracker.is_overdue("robot")
    with patch.object(time, "monotonic", return_value=0.26):
        assert tracker.time_until_next("robot") == pytest.approx(-0.06)
        assert tracker.is_overdue("robot")


def test_confidence_is_full_after_ten_intervals() -> None:
    tracker = CadenceTracker()
    ask(tracker, *(n * 0.05 for n in range(6)))
    assert tracker.confidence("robot") == 0.5
    ask(tracker, *(0.3 + n * 0.05 for n in range(9)))
    assert tracker.confidence("robot") == 1.0


def test_each_model_of_a_client_has_a_rhythm_of_its_own() -> None:
    tracker = CadenceTracker()
    ask(tracker, 0.0, 0.02, model="policy")
    ask(tracker, 0.0, 1.0, model="vlm")
    assert tracker.learned_cadence("robot", "policy") == pytest.approx(0.02)
    assert tracker.learned_cadence("robot", "vlm") == pytest.approx(1.0)
    assert list(tracker.rhythms("robot")) == ["policy", "vlm"]


def test_a_pause_is_no_rhythm() -> None:
    tracker = CadenceTracker()
    ask(tracker, *(n * 0.02 for n in range(20)), 60.0, 60.02, 60.04)
    assert tracker.learned_cadence("robot") == pytest.approx(0.02)


def test_a_client_that_slows_down_is_followed_at_its_second_slow_interval() -> None:
    tracker = CadenceTracker()
    ask(tracker, *(n * 0.02 for n in range(20)), 10.0, 11.0, 12.0)
    assert tracker.learned_cadence("robot") == pytest.approx(1.0)


def test_a_client_that_speeds_up_is_followed_at_its_third_fast_interval() -> None:
    tracker = CadenceTracker()
    ask(tracker, 0.0, 60.0, 60.02, 60.04, 60.06)
    assert tracker.learned_cadence("robot") == pytest.approx(0.02)


def test_two_requests_that_bunched_up_set_no_new_rhythm() -> None:
    tracker = CadenceTracker()
    ask(tracker, *(n * 0.02 for n in range(20)), 0.4, 0.4001, 0.4002)
    learned = tracker.learned_cadence("robot")
    assert learned is not None
    assert learned > 0.02 / 5


def test_two_pauses_with_a_request_between_them_are_a_rhythm_until_the_old_one_is_back() -> None:
    tracker = CadenceTracker()
    ask(tracker, *(n * 0.02 for n in range(20)), 60.0, 120.0)
    assert tracker.learned_cadence("robot") == pytest.approx(60.0)
    ask(tracker, 120.02, 120.04, 120.06)
    assert tracker.learned_cadence("robot") == pytest.approx(0.02)


def test_of_a_client_that_asks_in_pairs_the_mean_is_learned() -> None:
    tracker = CadenceTracker()
    ask(tracker, *(time_s for n in range(50) for time_s in (n * 0.1, n * 0.1 + 0.001)))
    learned = tracker.learned_cadence("robot")
    assert learned is not None
    assert 0.02 < learned < 0.08


@pytest.mark.parametrize("factor", [1 / 3, 1 / 2, 2, 3])
def test_with_a_weight_of_one_the_cadence_is_the_last_interval(factor: float) -> None:
    tracker = CadenceTracker(alpha=1.0)
    last = 9 * 0.05
    ask(tracker, *(n * 0.05 for n in range(10)), last + 0.05 * factor)
    assert tracker.learned_cadence("robot") == pytest.approx(0.05 * factor)


def test_what_is_kept_of_a_client_that_asks_ever_other_models_is_bounded() -> None:
    tracker = CadenceTracker()
    for n in range(1000):
        tracker.on_request("robot", f"m{n}", now=0.0)
    assert list(tracker.rhythms("robot")) == [f"m{n}" for n in range(1000 - 64, 1000)]


def test_a_forgotten_client_is_unknown() -> None:
    tracker = CadenceTracker()
    ask(tracker, 0.0, 0.1)
    tracker.forget("robot")
    tracker.forget("robot")
    assert tracker.learned_cadence("robot") is None
    assert list(tracker.rhythms("robot")) == []


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=50), st.floats(0.01, 1.0))
def test_the_cadence_lies_between_the_shortest_and_the_longest_interval(intervals: list[float], alpha: float) -> None:
    tracker = CadenceTracker(alpha)
    now = 0.0
    tracker.on_request("robot", now=now)
    for interval in intervals:
        now += interval
        tracker.on_request("robot", now=now)
    learned = tracker.learned_cadence("robot")
    assert learned is not None
    assert min(intervals) * 0.999 <= learned <= max(intervals) * 1.001


PERIODS = st.floats(0.001, 100.0)


@given(old=PERIODS, new=PERIODS, count=st.integers(2, 40), alpha=st.floats(0.3, 1.0))
def test_whatever_the_rate_was_a_new_one_is_learned(old: float, new: float, count: int, alpha: float) -> None:
    tracker = CadenceTracker(alpha)
    now = 0.0
    for interval in [old] * count + [new] * 20:
        tracker.on_request("robot", now=now)
        now += interval
    tracker.on_request("robot", now=now)
    assert tracker.learned_cadence("robot") == pytest.approx(new, rel=0.02)


@given(
    period=st.floats(0.005, 1.0),
    jitter=st.lists(st.floats(0.7, 1.3), min_size=12, max_size=40),
    pause_periods=st.floats(10.0, 1e5),
)
def test_one_pause_does_not_touch_a_rhythm_that_is_known(
    period: float, jitter: list[float], pause_periods: float
) -> None:
    tracker = CadenceTracker()
    now = 0.0
    for factor in jitter:
        tracker.on_request("robot", now=now)
        now += period * factor
    tracker.on_request("robot", now=now)
    before = tracker.learned_cadence("robot"), tracker.confidence("robot")
    tracker.on_request("robot", now=now + period * pause_periods)
    assert (tracker.learned_cadence("robot"), tracker.confidence("robot")) == before


@pytest.mark.parametrize("kind", ["exponential", "uniform"])
def test_a_client_that_asks_irregularly_is_hardly_ever_overdue_and_a_regular_one_is(kind: str) -> None:
    draws = random.Random(1)
    tracker, now, alarms = CadenceTracker(), 0.0, 0
    for _ in range(200):
        gap = draws.expovariate(1 / 5) if kind == "exponential" else draws.uniform(1, 10)
        alarms += tracker.is_overdue("vlm", now=now + gap)
        now += gap
        tracker.on_request("vlm", now=now)
    assert alarms <= 8
    assert tracker.confidence("vlm") < 0.8
    for number in range(50):
        tracker.on_request("arm", now=0.1 * number)
    assert tracker.confidence("arm") > 0.99
    assert tracker.is_overdue("arm", now=4.9 + 0.151)


def test_of_requests_that_come_in_bursts_it_is_known_how_many_they_are() -> None:
    tracker = CadenceTracker()
    rhythm, _, _ = tracker.note("flooder", "m", 0.0)
    known_s = [0.0]
    for burst in range(40):
        at = 0.1 * burst
        for number in range(20):
            tracker.note("flooder", "m", at + number * 1e-4)
        known_s.append(rhythm.asked_every_s(at))
    assert known_s[-1] == pytest.approx(0.1 / 20, rel=0.2)


def test_a_robot_that_asks_steadily_asks_as_often_as_was_learned() -> None:
    tracker = CadenceTracker()
    rhythm, _, _ = tracker.note("robot", "m", 0.0)
    for number in range(1, 40):
        tracker.note("robot", "m", 0.2 * number)
        asked_every_s = rhythm.asked_every_s(0.2 * number)
    assert asked_every_s == pytest.approx(0.2)


def test_how_long_after_an_answer_a_client_asks_again_is_learned_of_the_answer_to_its_newest_request() -> None:
    rhythm = Rhythm(0.0)
    assert rhythm.pause == math.inf

    def ask(at: float) -> None:
        rhythm.learn_pause(at, 0.5)
        rhythm.last = at

    ask(1.0)  # the first was not answered
    assert rhythm.pause == math.inf
    rhythm.on_answer(0.0, 1.9)  # of one before
    ask(2.0)
    assert rhythm.pause == math.inf
    rhythm.on_answer(2.0, 2.5)
    ask(2.6)
    assert rhythm.pause == pytest.approx(0.1)
    rhythm.on_answer(2.6, 3.0)
    ask(3.3)
    assert rhythm.pause == pytest.approx(0.2)


@given(
    st.lists(st.floats(1e-4, 10.0), max_size=8), st.floats(1e-4, 10.0), st.integers(1, 30), st.sampled_from([0.1, 0.3])
)
def test_the_same_interval_many_times_is_learned_at_once_as_one_by_one(
    before: list[float], interval: float, count: int, alpha: float
) -> None:
    at_once, one_by_one = Rhythm(0.0), Rhythm(0.0)
    for rhythm in (at_once, one_by_one):
        for earlier in before:
            rhythm.learn(earlier, alpha)
    at_once.learn_all(interval, alpha, count)
    for _ in range(count):
        one_by_one.learn(interval, alpha)
    assert at_once.period == pytest.approx(one_by_one.period)
    assert at_once.spread == pytest.approx(one_by_one.spread, abs=1e-9)
    rest = [(rhythm.intervals, rhythm.regular, rhythm.long, rhythm.short) for rhythm in (at_once, one_by_one)]
    assert rest[0] == rest[1]


def test_what_renews_a_waiting_request_is_no_sign_of_a_faster_rhythm() -> None:
    tracker = CadenceTracker()
    for asked_at in range(0, 20, 2):
        tracker.on_request("robot", now=asked_at)
        for n in range(1, 5):
            tracker.on_renewal("robot", "", asked_at + 0.3 * n)
    assert tracker.learned_cadence("robot") == pytest.approx(2.0)


def test_a_client_that_renews_its_request_is_not_silent() -> None:
    tracker = CadenceTracker(overdue_multiplier=1.5)
    for asked_at in range(10):
        tracker.on_request("robot", now=asked_at)
    tracker.on_renewal("robot", "", 11.0)
    assert not tracker.is_overdue("robot", now=12.0)
    assert tracker.is_overdue("robot", now=12.6)


def test_what_renews_is_nothing_to_remember_of_an_unknown_client() -> None:
    tracker = CadenceTracker()
    tracker.on_renewal("robot", "", 1.0)
    assert len(tracker) == 0
