"""Clients that ask a model once and never again are found, and fleets that start are not taken for them."""

from __future__ import annotations

from inferential.tracking.newcomers import AGAIN_S, MANY, MEMORY_S, Newcomers

SWEEP_S = 0.25


def _counted(newcomers: Newcomers, seconds: float, came_each: int, again_each: int, now: float = 0.0) -> float:
    """So many come, and so many of those before ask again, before each count; returns the time after that."""
    for _ in range(round(seconds / SWEEP_S)):
        now += SWEEP_S
        for _ in range(came_each):
            newcomers.came("m")
        for _ in range(again_each):
            newcomers.asked_again("m")
        newcomers.count(now)
    return now


def test_a_model_is_flooded_by_clients_that_never_ask_again_and_is_not_once_they_stay_away() -> None:
    newcomers = Newcomers()
    newcomers.came("other")
    now = _counted(newcomers, AGAIN_S, 2 * MANY, 0)
    assert newcomers.flooded == frozenset()
    now = _counted(newcomers, 2 * SWEEP_S, 2 * MANY, 0, now)
    assert newcomers.flooded == {"m"}
    _counted(newcomers, 3 * MEMORY_S, 0, 0, now)
    assert newcomers.flooded == frozenset()


def test_each_model_is_named_once_when_it_begins_to_be_flooded() -> None:
    newcomers = Newcomers()
    for _ in range(10 * MANY):
        newcomers.came("m")
    assert [newcomers.count(at) for at in (0.0, AGAIN_S, 2 * AGAIN_S)] == [frozenset(), {"m"}, frozenset()]


def test_a_fleet_that_starts_and_asks_again_is_no_flood() -> None:
    newcomers = Newcomers()
    now = _counted(newcomers, SWEEP_S, 1000, 0)
    now = _counted(newcomers, 2 * SWEEP_S, 0, 500, now)
    _counted(newcomers, 2 * AGAIN_S, 0, 0, now)
    assert newcomers.flooded == frozenset()


def test_robots_that_come_one_after_another_and_stay_are_no_flood() -> None:
    newcomers = Newcomers()
    now = _counted(newcomers, SWEEP_S, 20, 0)
    _counted(newcomers, 20.0, 20, 20, now)
    assert newcomers.flooded == frozenset()


def test_of_very_many_model_ids_not_all_are_kept() -> None:
    newcomers = Newcomers()
    for number in range(3000):
        newcomers.came(str(number))
    assert len(newcomers) <= 1024
