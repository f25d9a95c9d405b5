"""What is remembered of robots: how much earlier they are to ask, since when they wait, and what they starved."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.scheduler import InferenceRequest
from inferential.scheduler.chunk_client import MEMORY_S, ChunkClient, Usual, note_reserves, note_served, owed
from inferential.scheduler.slo_model import answer_within_s
from inferential.scheduler.time.availability import ReplicaSlot
from inferential.scheduler.time.profile import LatencyProfile
from inferential.scheduler.time.robot_time import ChunkTime

MakeRequest = Callable[..., InferenceRequest]
NOW = 100.0
WITHIN_S = (0.2, 0.3)


@pytest.fixture
def reserve_s(make_request: Callable[..., InferenceRequest]) -> Callable[..., float]:
    """`reserve_s(left_s=0.1)`: of a robot that asked with so much left, 20 ms ago, for a call that ends in 80 ms."""

    def find(
        left_s: float, before_s: float = 0.0, *, first: bool = False, answered_at: float = -math.inf, **fields: Any
    ) -> float:
        client = ChunkClient(NOW)
        client.reserve_s, client.answered_at = before_s, answered_at
        if not first:
            client.lasts_until = NOW
        asked_at = NOW - 0.02
        request = make_request("a", received_at=asked_at, chunk=ChunkTime(asked_at + left_s, NOW + 0.5, 0.5), **fields)
        note_reserves([(request, client)], WITHIN_S, NOW + 0.08)
        assert request.chunk is not None
        assert client.reserve_s == request.chunk.reserve_s
        return client.reserve_s

    return find


@pytest.mark.parametrize(
    ("left_s", "before_s", "expected_s"),
    [
        (0.12, 0.0, 0.08),  # it counts on 0.12 s
        (0.05, 0.0, 0.1),  # it counts on what this answer takes at least
        (0.2, 0.08, 0.08),  # it asked so early as was suggested
        (0.25, 0.0, 0.0),  # it asks early enough by itself
        (-1.0, 0.0, 0.1),  # it stood
    ],
)
def test_a_robot_asks_earlier_by_what_it_does_not_know_of(
    reserve_s: Callable[..., float], left_s: float, before_s: float, expected_s: float
) -> None:
    assert reserve_s(left_s, before_s) == pytest.approx(expected_s)


@pytest.mark.parametrize("left_s", [math.nan, math.inf, 1e300])
def test_of_a_robot_that_says_what_cannot_be_nothing_is_reserved(
    reserve_s: Callable[..., float], left_s: float
) -> None:
    assert reserve_s(left_s) == 0.0
    assert reserve_s(0.1, control_period_s=left_s) == 0.0


def test_one_that_is_served_for_the_first_time_came_perhaps_with_others(reserve_s: Callable[..., float]) -> None:
    assert reserve_s(0.0, first=True) == pytest.approx(0.2)


def test_a_control_step_is_left_as_a_robot_leaves_one(reserve_s: Callable[..., float]) -> None:
    assert reserve_s(0.12, control_period_s=0.02) == pytest.approx(0.1)


def test_a_newer_observation_says_when_its_robot_asked(reserve_s: Callable[..., float]) -> None:
    assert reserve_s(0.05, waiting_since=NOW - 0.12) == pytest.approx(0.05)


def test_what_was_sent_before_the_last_answer_came_does_not_say_when_a_robot_asks(
    reserve_s: Callable[..., float],
) -> None:
    assert reserve_s(0.9, answered_at=NOW - 0.03) == 0.0
    assert reserve_s(0.9, answered_at=NOW - 0.01) == pytest.approx(0.1)


def test_how_long_a_robot_stood_before_its_newest_observation_does_not_say_when_it_asks(
    reserve_s: Callable[..., float],
) -> None:
    assert reserve_s(0.0, waiting_since=NOW - 0.5) == pytest.approx(0.1)


def slots(replicas: int, max_batch_size: int = 8) -> list[ReplicaSlot]:
    profile = LatencyProfile()
    for rows in (1, 8):
        profile.load(rows, 0.07 + 0.01 * rows, 0.07 + 0.01 * rows)
    return [ReplicaSlot("m", str(number), max_batch_size, profile) for number in range(replicas)]


def test_an_answer_may_take_the_wait_for_a_replica_and_a_call_of_those_that_ask() -> None:
    lately_s, most_s = answer_within_s(slots(1), 8) or (0.0, 0.0)
    assert lately_s == most_s == pytest.approx(1.95 * 0.15)
    lately_s, most_s = answer_within_s(slots(4), 12) or (0.0, 0.0)
    assert lately_s == pytest.approx(0.1 * (2 - 0.05**0.25))
    assert most_s == pytest.approx(0.15 * (2 - 0.05**0.25))


def test_where_each_robot_has_a_replica_none_waits() -> None:
    lately_s, _ = answer_within_s(slots(4), 4) or (0.0, 0.0)
    assert lately_s == pytest.approx(0.08)


def test_of_a_model_that_is_not_known_yet_nothing_is_said() -> None:
    assert answer_within_s([ReplicaSlot("m", "0", 8, LatencyProfile())], 3) is None


@pytest.mark.parametrize(
    ("waited_s", "counted_s"),
    [
        (0.5, 0.0),  # as usual
        (0.3, 0.0),  # earlier: nothing is taken off
        (0.6, 0.1),  # later by a fifth of a chunk, nearly all of which counts
        (5.0, 0.125),  # no more than a quarter of what is usual
    ],
)
def test_one_that_was_served_late_counts_as_waiting_already(
    make_request: MakeRequest, waited_s: float, counted_s: float
) -> None:
    usual, client = Usual(), ChunkClient(NOW - waited_s)
    brief = (NOW - 0.1, NOW + 0.5, 0.5, NOW - waited_s, NOW + 1.0)
    note_served([(make_request("a"), client)], [brief], NOW + 0.1, NOW, usual)
    assert NOW - client.since == pytest.approx(counted_s, abs=0.01)
    assert usual.wait == pytest.approx(1 + 0.02 * (waited_s / 0.5 - 1))


def test_what_gains_nothing_leaves_its_client_its_turn(make_request: MakeRequest) -> None:
    client = ChunkClient(NOW - 0.2)
    brief = (NOW - 0.1, NOW + 0.05, 0.5, NOW - 0.2, NOW + 1.3)
    note_served([(make_request("a"), client)], [brief], NOW + 0.1, NOW, Usual())
    assert client.since == NOW - 0.2


Play = Callable[..., ChunkClient]
LASTS_S = PERIOD_S = 0.5


@pytest.fixture(scope="session")
def play(make_request: MakeRequest) -> Play:
    """`play(usual, answers=10, stands_s=0.2)`: a robot that is served each 0.5 s, and stood for so long each time."""

    def play(usual: Usual, answers: int, stands_s: float) -> ChunkClient:
        client, request = ChunkClient(NOW), make_request("a")
        for number in range(answers):
            answered_at = NOW + number * PERIOD_S
            brief = (answered_at - stands_s, answered_at + PERIOD_S - stands_s, LASTS_S, client.since, math.inf)
            note_served([(request, client)], [brief], answered_at, answered_at - 0.1, usual)
        return client

    return play


def usually(starved: float) -> Usual:
    usual = Usual()
    usual.starved = starved
    return usual


@pytest.mark.parametrize("answers", [3, 10, 100])
def test_a_robot_that_starved_as_much_as_is_usual_owes_nothing_since_when_it_is_there(play: Play, answers: int) -> None:
    client = play(usually(0.5), answers, stands_s=0.25)
    assert owed(client, usually(0.55), LASTS_S) == 0.0
    assert 0 < owed(client, usually(0.4), LASTS_S) < 0.5


@pytest.mark.parametrize("before_s", [0.0, 3.0, 1e9])
def test_what_a_robot_waited_for_its_first_answer_it_did_not_starve(make_request: MakeRequest, before_s: float) -> None:
    client = ChunkClient(NOW - before_s)
    brief = (NOW - before_s, NOW + 0.5, LASTS_S, NOW - before_s, math.inf)
    note_served([(make_request("a"), client)], [brief], NOW + 0.1, NOW, Usual())
    assert owed(client, Usual(), LASTS_S) == client.known_s == 0.0


def test_the_more_a_robot_starved_the_more_it_is_owed(play: Play) -> None:
    found = [owed(play(usually(0.1), 60, stands_s), usually(0.1), LASTS_S) for stands_s in (0.0, 0.06, 0.2, 0.5)]
    assert found[0] == 0.0
    assert found == sorted(found)
    assert found[-1] == pytest.approx(0.9 * MEMORY_S / LASTS_S, rel=0.1)


def test_what_is_owed_is_forgotten(play: Play) -> None:
    usual = usually(0.1)
    client = play(usual, 20, stands_s=0.5)
    before = client.starved_s
    client.lasts_until = math.inf  # it has actions until its next answer
    brief = (math.inf, math.inf, LASTS_S, NOW, math.inf)
    later_s = client.answered_at + MEMORY_S
    note_served([(InferenceRequest.__new__(InferenceRequest), client)], [brief], later_s, later_s - 0.1, usual)
    assert client.starved_s == pytest.approx(before / math.e)


_S = st.floats(-1e6, 1e6)


@given(
    sent=st.lists(st.tuples(_S, _S, st.floats(1e-3, 1e6), st.floats(-1.0, 100.0)), max_size=20), share=st.floats(0, 1)
)
def test_whatever_robots_say_what_they_starved_is_within_what_passed(
    make_request: MakeRequest, sent: list[tuple[float, float, float, float]], share: float
) -> None:
    usual, client, now = usually(share), ChunkClient(NOW), NOW
    for left_s, covers_s, lasts_s, passes_s in sent:
        now = max(now + passes_s, NOW)
        brief = (now + left_s, now + covers_s, lasts_s, now, math.inf)
        note_served([(make_request("a"), client)], [brief], now + 0.1, now, usual)
        assert -1e-9 <= client.starved_s - 1e-9 <= client.known_s <= MEMORY_S
        assert 0 <= usual.starved <= 1 + 1e-9
        assert 0 <= owed(client, usual, lasts_s) <= MEMORY_S / max(lasts_s, MEMORY_S * usual.starved) + 1e-9


def test_two_answers_at_almost_the_same_moment_say_nothing_of_what_a_robot_starved(make_request: MakeRequest) -> None:
    usual, client = Usual(), ChunkClient(0.0)
    client.answered_at = client.lasts_until = 0.0
    note_served([(make_request("a"), client)], [(0.0, 0.5, 0.5, 0.0, 1.0)], 1e-20, 0.0, usual)
    assert (client.starved_s, client.known_s, usual.starved) == (0.0, 0.0, Usual().starved)
