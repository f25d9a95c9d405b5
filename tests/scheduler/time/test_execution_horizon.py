"""How many actions of a chunk to play: by load and confidence."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.scheduler import InferenceRequest
from inferential.scheduler.time.execution_horizon import execution_horizon, horizon_of_answer
from inferential.scheduler.time.robot_time import ChunkTime


def test_without_load_and_confidence_nothing_is_suggested() -> None:
    assert execution_horizon(25, None) == 0
    assert execution_horizon(0, 0.5) == 0


@pytest.mark.parametrize(
    ("confidence", "expected"),
    [
        (0.4, 10),
        (1.0, 25),
        (7.0, 25),
        (0.0, 1),
        (-1.0, 1),
        (np.float32(0.4), 10),
        (np.array([[0.4]]), 10),
        ([0.9] * 6 + [0.4] + [0.9] * 18, 6),
        ([0.9] * 25, 25),
        ([0.1] * 25, 1),
        (math.nan, 0),
        ([0.9] * 3, 0),
        ([math.inf] * 25, 0),
        ("high", 0),
        ([], 0),
    ],
)
def test_confidence_says_how_much_is_played(confidence: object, expected: int) -> None:
    assert execution_horizon(25, confidence) == expected


def test_load_lengthens_the_horizon_to_what_can_be_served() -> None:
    assert execution_horizon(25, 0.2, interval_steps=12.3) == 13
    assert execution_horizon(25, 0.8, interval_steps=12.3) == 20
    assert execution_horizon(25, 0.2, interval_steps=400) == 25


def test_under_load_alone_a_robot_is_not_asked_to_play_less_than_it_does() -> None:
    assert execution_horizon(25, None, interval_steps=12, played_steps=5) == 12
    assert execution_horizon(25, None, interval_steps=12, played_steps=24) == 24
    assert execution_horizon(25, None, interval_steps=12, played_steps=90) == 25


@given(
    st.integers(1, 200),
    st.one_of(st.none(), st.floats(), st.lists(st.floats(), max_size=8)),
    st.floats(),
    st.integers(-5, 500),
)
def test_a_suggestion_is_never_beyond_the_chunk(actions: int, confidence: object, interval: float, played: int) -> None:
    assert 0 <= execution_horizon(actions, confidence, interval_steps=interval, played_steps=played) <= actions


def test_what_is_reserved_is_played_only_where_the_next_chunk_is_late() -> None:
    assert execution_horizon(25, None, reserve_steps=4.2) == 20
    assert execution_horizon(25, 0.4, reserve_steps=4.2) == 10
    assert execution_horizon(25, 1.0, reserve_steps=4.2) == 20
    assert execution_horizon(25, None, reserve_steps=400) == 1


@pytest.mark.parametrize(
    ("reserve_s", "taken_s", "horizon"),
    [
        (0.0, 0.1, 0),
        (0.1, 0.1, 20),
        (0.101, 0.1, 19),
        (1.0, 0.1, 17),  # half of it, and what the answer took, are played
        (0.1, 0.3, 0),
        (math.inf, 0.1, 17),
    ],
)
def test_an_answers_horizon_leaves_what_the_next_may_take_longer(
    make_request: Callable[..., InferenceRequest], reserve_s: float, taken_s: float, horizon: int
) -> None:
    chunk = ChunkTime(100.2, 100.5, 0.5, reserve_s=reserve_s)
    request = make_request("a", received_at=100.0, chunk=chunk, control_period_s=0.02, steps_remaining=9)
    assert horizon_of_answer(request, 25, None, 100.0 + taken_s) == horizon


def test_a_robot_without_a_control_rate_gets_no_horizon_by_load(
    make_request: Callable[..., InferenceRequest],
) -> None:
    request = make_request("a", received_at=100.0, chunk=ChunkTime(100.2, 100.5, 0.5, reserve_s=0.1))
    assert horizon_of_answer(request, 25, None, 100.1) == 0
    assert horizon_of_answer(request, 25, 0.4, 100.1) == 10


@given(
    actions=st.integers(0, 100_000),
    period_s=st.floats(5e-324, 1e3) | st.just(math.inf),
    reserve_s=st.floats(0, 1e6),
    taken_s=st.floats(0, 1e6),
    interval_ms=st.sampled_from([0.0, 1e-3, 40.0, 1e300]),
)
def test_whatever_a_robot_states_its_horizon_is_one_of_its_chunk(
    make_request: Callable[..., InferenceRequest],
    actions: int,
    period_s: float,
    reserve_s: float,
    taken_s: float,
    interval_ms: float,
) -> None:
    chunk = ChunkTime(100.2, 100.5, 0.5, reserve_s=reserve_s)
    stated = {"control_period_s": period_s, "steps_remaining": 2**32 - 1, "serve_interval_ms": interval_ms}
    request = make_request("a", received_at=100.0, chunk=chunk, **stated)
    assert 0 <= horizon_of_answer(request, actions, None, 100.0 + taken_s) <= actions
