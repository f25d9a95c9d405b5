"""Latency profiles: what is learned from calls, what is not, and files of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.scheduler.time.profile import FORGET_AFTER, WINDOW, LatencyProfile, Profiles


def learned(*calls: tuple[int, float]) -> LatencyProfile:
    profile = LatencyProfile()
    for rows, latency_s in calls:
        profile.note(rows, latency_s)
    return profile


def test_nothing_is_known_before_the_first_call() -> None:
    profile = LatencyProfile()
    assert (profile.known, profile.warm, profile.typical(4), profile.high(4), profile.explored()) == (
        False,
        False,
        0.0,
        0.0,
        1,
    )


def test_what_a_row_alone_takes_is_where_the_curve_begins() -> None:
    profile = LatencyProfile()
    assert profile.typical(1) == 0.0
    for size, latency_s in ((5, 0.02), (3, 0.03), (8, 0.01)):
        profile.note(size, latency_s)
        alone_s = profile.typical(1)
        profile.typical(8)  # draws it
        assert profile.typical(1) == alone_s


def test_the_high_latency_is_the_quantile_and_the_typical_one_the_median() -> None:
    profile = learned(*((1, 0.010 + 0.0001 * number) for number in range(60)))
    assert profile.typical(1) == pytest.approx(0.0129)
    assert profile.high(1) == pytest.approx(0.0157)


def test_a_first_call_that_compiles_is_forgotten_with_the_second() -> None:
    profile = learned((1, 5.0), (1, 0.01))
    assert profile.high(1) == 0.01


def test_an_outlier_changes_nothing() -> None:
    profile = learned(*[(1, 0.01)] * 10, (1, 3.0), (1, 0.01))
    assert profile.high(1) == 0.01


@pytest.mark.parametrize("changed", [0.1, 0.001])
def test_three_in_a_row_are_another_speed_and_other_sizes_are_to_be_measured_anew(changed: float) -> None:
    profile = learned(*[(4, 0.02)] * 10, *[(1, 0.01)] * 10, *[(1, changed)] * 3)
    assert profile.typical(1) == changed
    assert [size.batch_size for size in profile.sizes()] == [1]


def test_two_slow_calls_and_a_fast_one_are_no_other_speed() -> None:
    profile = learned(*[(1, 0.01)] * 10, (1, 0.1), (1, 0.1), (1, 0.001), (1, 0.1))
    assert profile.typical(1) == 0.01


def test_a_slow_drift_is_followed() -> None:
    profile = learned(*((1, 0.01 * 1.01**number) for number in range(200)))
    assert profile.typical(1) > 0.01 * 1.01 ** (200 - WINDOW)


def test_a_size_that_is_called_no_more_is_forgotten() -> None:
    profile = learned(*[(8, 0.05)] * 5, *[(1, 0.01)] * (FORGET_AFTER + WINDOW))
    assert [size.batch_size for size in profile.sizes()] == [1]


def test_between_known_sizes_it_is_a_line_and_beyond_them_level() -> None:
    profile = learned((2, 0.02), (4, 0.04))
    assert [round(profile.typical(rows), 6) for rows in (1, 2, 3, 4, 8)] == [0.02, 0.02, 0.03, 0.04, 0.04]


def test_sizes_are_explored_by_doubling() -> None:
    assert learned((1, 0.01)).largest_within(1.0, limit=8) == 2
    assert learned((1, 0.01), (2, 0.01)).largest_within(1.0, limit=8) == 4
    assert learned((3, 0.01)).largest_within(1.0, limit=5) == 5


def test_the_largest_batch_that_is_in_time() -> None:
    profile = learned((1, 0.011), (2, 0.012), (3, 0.013), (4, 0.014))
    assert [profile.largest_within(seconds, 4) for seconds in (0.0105, 0.0115, 0.013, 1.0)] == [0, 1, 3, 4]


@given(st.lists(st.tuples(st.integers(1, 16), st.floats(1e-4, 10.0)), min_size=1, max_size=200))
def test_more_rows_never_seem_to_take_less_time(calls: list[tuple[int, float]]) -> None:
    profile = learned(*calls)
    highs = [profile.high(rows) for rows in range(1, 20)]
    typical = [profile.typical(rows) for rows in range(1, 20)]
    assert highs == sorted(highs)
    assert typical == sorted(typical)
    assert all(high >= median for high, median in zip(highs, typical, strict=True))
    assert profile.largest_within(highs[0], 1) == 1


def test_another_quantile_holds_for_what_was_learned() -> None:
    profiles = Profiles()
    profile = profiles.of("m")
    for number in range(10):
        profile.note(1, 0.010 + 0.001 * number)
    profiles.set_quantile(0.5)
    assert profile.high(1) == pytest.approx(0.015)


def test_profiles_survive_being_written_and_loaded() -> None:
    profiles = Profiles()
    for replica, calls in (("0", 3), ("1", 30)):
        for _ in range(calls):
            profiles.of("m", replica).note(2, 0.02 + float(replica))
    figures = profiles.as_dict()
    assert figures == {"m": [{"batch_size": 2, "median_ms": pytest.approx(1020), "high_ms": pytest.approx(1020)}]}
    loaded = Profiles()
    loaded.load(figures)
    assert loaded.as_dict() == figures
    assert loaded.models() == ["m"]
    assert loaded.of("m", "any").warm
    assert loaded.of("m", "any").typical(2) == pytest.approx(1.02)


def test_loaded_figures_have_their_high_quantile() -> None:
    profiles = Profiles()
    profiles.load({"m": [{"batch_size": 1, "median_ms": 10.0, "high_ms": 14.0}]})
    assert (profiles.of("m").typical(1), profiles.of("m").high(1)) == (0.01, 0.014)


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({"m": {}}, r"m: expected a list of batch sizes, got \{\}"),
        ({"m": [3]}, r"m\[0\]: expected batch_size, median_ms and high_ms, got 3"),
        ({"m": [{"batch_size": 1, "median_ms": 1.0, "p99": 2}]}, r"m\[0\]: unknown key 'p99'; known: batch_size"),
        ({"m": [{"batch_size": 0, "median_ms": 1.0}]}, r"m\[0\]: batch_size: expected a whole number above 0, got 0"),
        ({"m": [{"batch_size": 1}]}, r"m\[0\]: median_ms: expected milliseconds above 0, got None"),
        ({"m": [{"batch_size": 1, "median_ms": 5.0, "high_ms": 1.0}]}, r"m\[0\]: high_ms: expected at least median_ms"),
    ],
)
def test_a_bad_entry_is_named(entries: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Profiles().load(entries)


def test_a_new_replica_begins_as_its_siblings_are_and_then_learns() -> None:
    profiles = Profiles()
    for _ in range(5):
        profiles.of("m", "first").note(4, 0.02)
    profiles.of("m", "idle")
    new = profiles.of("m", "new")
    assert new.typical(4) == pytest.approx(0.02)
    assert new.explored() == 8
    for _ in range(3):
        new.note(4, 0.1)  # a slower machine
    assert new.typical(4) == pytest.approx(0.1)
    assert profiles.of("m", "first").typical(4) == pytest.approx(0.02)
    assert profiles.of("other", "new").typical(4) == 0.0


def test_the_successor_of_a_models_last_replica_begins_as_that_was() -> None:
    profiles = Profiles()
    for _ in range(5):
        profiles.of("m", "first").note(4, 0.02)
    profiles.forget("m", "first")
    assert profiles.replicas("m") == []
    assert profiles.of("m", "second").typical(4) == pytest.approx(0.02)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_what_is_no_duration_teaches_nothing(odd: float) -> None:
    profile = LatencyProfile()
    profile.load(2, odd, 0.1)
    profile.note(2, odd)
    assert not profile.known
    profile.load(2, 0.02, odd)
    assert (profile.typical(2), profile.high(2)) == (0.02, 0.02)
    assert profile.largest_within(0.02, 2) == 2


def test_a_row_more_is_taken_by_the_median_where_a_risk_is_allowed() -> None:
    profile = LatencyProfile()
    for rows, latency_s in ((1, 0.01), (2, 0.02)):
        profile.load(rows, latency_s, latency_s + 0.01)
    assert [profile.largest_within(0.025, 2, caution) for caution in (1.0, 0.6, 0.4, 0.0)] == [1, 1, 2, 2]


def test_many_sizes_are_compared_at_some_of_them() -> None:
    profile = LatencyProfile()
    profile.load(100, 0.1, 0.1)
    sizes = profile.sizes_up_to(100, 10)
    assert (len(sizes.rows), sizes.rows[0], sizes.rows[-1], sizes.efficient) == (10, 1, 100, 100)
    assert sizes.seconds == [profile.typical(size) for size in sizes.rows]
    assert sizes.longest_s == profile.typical(100)
    profile.note(1, 0.001)
    assert profile.sizes_up_to(100, 10).seconds[0] == pytest.approx(0.001)
