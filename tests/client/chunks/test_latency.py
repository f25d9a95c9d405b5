"""What round trips tell of the next one: of the network the longest, of the server what is usual; no clock."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from inferential.client.chunks.latency import WINDOW, Latency
from inferential.client.chunks.player import Player

LONG_AGO = WINDOW + 1


def learned(*trips_ms: tuple[float, float], usual: int = 40) -> Latency:
    """Of usual round trips of 100 ms, 40 of them on the server, and these: whole, and on the server."""
    latency = Latency()
    for trip_ms, server_ms in [(100.0, 40.0)] * usual + list(trips_ms):
        latency.note(trip_ms / 1e3, server_ms / 1e3)
    return latency


def test_one_lost_packet_is_kept_in_hand_until_it_is_long_ago() -> None:
    latency = learned((400.0, 40.0))
    assert latency.lead(0.95) == pytest.approx(0.4)
    for _ in range(LONG_AGO):
        latency.note(0.1, 0.04)
    assert latency.lead(0.95) == pytest.approx(0.1)


def test_one_call_that_was_long_on_the_server_is_not() -> None:
    assert learned((400.0, 340.0)).lead(0.95) == pytest.approx(0.1)


@pytest.mark.parametrize("server_ms", [math.nan, 0.0])
def test_before_the_first_chunk_nothing_is_known(server_ms: float) -> None:
    latency = Latency()
    assert math.isnan(latency.lead(0.95))
    latency.note(0.2, server_ms / 1e3)
    assert latency.lead(0.95) == pytest.approx(0.2)


def test_a_robot_that_saw_a_lost_packet_asks_so_early_that_the_next_costs_it_no_step() -> None:
    player, now, chunk = Player(50.0), 100.0, np.zeros((50, 1))
    number, comes_at = 0, math.inf
    for _ in range(50 * 60):
        if now >= comes_at:
            player.answered(number, chunk, now, server_ms=30.0)
            comes_at = math.inf
        if player.wants_chunk(now):
            number += 1
            player.asked(number, now)
            comes_at = now + (0.36 if number % 30 == 20 else 0.14)
        player.play()
        now += 0.02
    assert player.stats.starved_episodes == 1  # the first


def asking(*trips_s: float) -> Player:
    """A player that has seen such round trips, 30 ms of each on the server, and asks again at 100 s."""
    player, chunk = Player(50.0), np.zeros((50, 1))
    for number, trip_s in enumerate(trips_s, start=1):
        player.asked(number, float(number))
        player.answered(number, chunk, number + trip_s, server_ms=30.0)
    player.asked(100, 100.0)
    return player


def nudges(player: Player, seconds: float) -> list[float]:
    """When it nudges the server after it has asked."""
    return [0.02 * step for step in range(round(seconds * 50)) if player.wants_nudge(100.0 + 0.02 * step)]


def test_a_late_answer_is_nudged_again_and_again_but_not_without_end() -> None:
    nudged = nudges(asking(0.13, 0.13, 0.13), 10.0)
    assert nudged[0] == pytest.approx(0.16)  # what the server takes, and one and a quarter of what the network does
    assert np.diff(nudged) == pytest.approx(0.06)  # half of what the network takes, by whole steps
    assert len(nudged) == 8


def test_where_something_was_lost_lately_an_observation_is_followed_at_once() -> None:
    player = asking(0.13, 0.13, 0.43, 0.13)
    assert nudges(player, 0.14) == pytest.approx([0.04, 0.08, 0.12])
    player.answered(100, np.zeros((50, 1)), 100.13, server_ms=30.0)
    assert not nudges(player, 1.0)


@pytest.mark.parametrize("trips_s", [(), (0.13,), (0.09, 0.13, 0.17)])
def test_what_is_in_time_is_not_nudged_where_nothing_was_lost(trips_s: tuple[float, ...]) -> None:
    assert not nudges(asking(*trips_s), 0.14)


def test_while_nothing_is_heard_at_all_nothing_is_nudged() -> None:
    player = asking(0.13)
    assert not player.wants_nudge(100.5, lambda: 1.6)
    assert player.wants_nudge(100.5, lambda: 1.4)


def test_observations_that_are_made_anew_in_a_silence_are_not_nudged_either() -> None:
    player = asking(0.13, 0.13, 0.43)  # something was lost lately
    nudged = 0
    for number in range(101, 251):
        now = 100.0 + 0.02 * (number - 100)
        if player.wants_chunk(now, heard_s_ago=lambda: 1.6):
            player.asked(number, now)
        nudged += player.wants_nudge(now, lambda: 1.6)
        player.play()
    assert player.stats.refreshed > 10
    assert not nudged


def test_after_an_outage_what_leaves_first_is_followed_at_once() -> None:
    player = asking(0.13, 0.13)  # nothing was lost before it
    player.play()
    assert player.wants_chunk(100.2, heard_s_ago=lambda: 1.6)
    player.asked(101, 100.2)
    assert not player.wants_nudge(100.3, lambda: 0.02)  # a connection was made just now, by which it left
    assert player.wants_nudge(100.32, lambda: 0.04)
    assert player.wants_nudge(100.36, lambda: 0.08)
    player.answered(101, np.zeros((50, 1)), 100.4, server_ms=30.0)
    player.asked(102, 100.6)
    assert not player.wants_nudge(100.72, lambda: 0.12)


def test_on_a_quick_network_a_late_answer_is_nudged_rarely() -> None:
    nudged = nudges(asking(0.031, 0.031, 0.036), 10.0)
    assert nudged[0] == pytest.approx(0.08)  # two steps after what the server takes
    assert np.diff(nudged) == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("network_s", "known", "options", "left"),
    [
        (0.1, 0, {}, 8),  # a server that does not say what it took: nothing tells that the network is slow
        (0.1, 1, {}, 25),  # a lost packet would make three times as much of it, of which nothing is known yet
        (0.1, 15, {}, 25),
        (0.1, 16, {}, 8),
        (0.005, 1, {}, 3),
        (0.1, 1, {"execution_horizon": 40}, 17),
    ],
)
def test_while_little_is_known_of_a_slow_network_half_a_chunk_is_left_for_what_may_be_lost(
    network_s: float, known: int, options: dict[str, Any], left: int
) -> None:
    player, chunk = Player(50.0, **options), np.zeros((50, 1))
    for number in range(1, known + 1):
        player.asked(number, float(number))
        player.answered(number, chunk, number + network_s + 0.03, server_ms=30.0)
    if not known:
        player.asked(1, 1.0)
        player.answered(1, chunk, 1.13)
    asked_with = []
    for step in range(50):
        if player.wants_chunk(100.0 + 0.02 * step):
            asked_with.append(player.actions_left())
        player.play()
    assert asked_with[0] == left


def test_an_overloaded_server_is_not_asked_earlier_however_slow_the_network_is() -> None:
    player, chunk = Player(50.0), np.zeros((50, 1))
    player.asked(1, 100.0)
    player.answered(1, chunk, 100.13, server_ms=30.0)
    player.suggested_horizon = 45
    asked = [player.wants_chunk(100.14 + 0.02 * step) for step in range(30)] if player.play() is not None else []
    assert not any(asked)
