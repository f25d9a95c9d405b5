"""The rhythm of clients."""

from __future__ import annotations

import math
import time
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.tracking import CadenceTracker


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
    assert tracker.models("robot") == ["policy", "vlm"]


def test_a_pause_is_no_rhythm() -> None:
    tracker = CadenceTracker()
    ask(tracker, *(n * 0.02 for n in range(20)), 60.0, 60.02, 60.04)
    assert tracker.learned_cadence("robot") == pytest.approx(0.02)


def test_a_client_that_slows_down_is_followed_at_its_second_slow_interval() -> None:
    tracker = CadenceTracker()
    ask(tracker, *(n * 0.02 for n in range(20)), 10.0, 11.0, 12.0)
    assert tracker.learned_cadence("robot") == pytest.approx(1.0)


def test_a_forgotten_client_is_unknown() -> None:
    tracker = CadenceTracker()
    ask(tracker, 0.0, 0.1)
    tracker.forget("robot")
    tracker.forget("robot")
    assert tracker.learned_cadence("robot") is None
    assert tracker.models("robot") == []


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
