"""What a run was worth, by hand."""

from __future__ import annotations

import pytest

from inferential.sim.virtual.measures import jain, measure
from inferential.sim.virtual.world import Arrival, Call, Outcome, Run


def outcome(client: str, at: float, ended_at: float, end: str = "answered", time_s: float = 0.1) -> Outcome:
    return Outcome(Arrival(at, client, "m", client[0], at + time_s), ended_at, end)


def test_a_run_is_summed_up_by_class_and_in_all() -> None:
    outcomes = [
        outcome("a1", 0.0, 0.05),
        outcome("b1", 0.0, 0.30),
        outcome("a1", 0.2, 0.25),
        outcome("b1", 0.5, 0.55),
        outcome("a1", 0.6, 0.7, "superseded"),
        outcome("b2", 0.6, 0.7, "expired"),
    ]
    calls = [Call("m", 0, 0.0, 0.1, 1, 1), Call("m", 0, 0.2, 0.3, 3, 2)]
    summed = measure(Run("slo_aware", 1.0, outcomes, calls, (10.0, 20.0)), {"m": 2})
    everyone, a, b = summed.overall, summed.classes["a"], summed.classes["b"]
    assert (everyone.robots, everyone.offered, everyone.in_time, everyone.goodput_per_s) == (3, 6, 3, 3.0)
    assert everyone.ends == {"answered": 4, "expired": 1, "superseded": 1}
    assert (a.miss_rate, b.miss_rate) == (0.0, pytest.approx(2 / 3))
    assert a.age_ms[0] == pytest.approx(50.0)
    assert b.robots_without == 1
    assert b.fairness == pytest.approx(0.5)
    assert summed.batch_size == {"m": 2.0}
    assert summed.utilisation == {"m": pytest.approx(0.1)}
    assert summed.as_dict()["overall"]["in_time"] == 3


def test_a_robot_starves_from_its_first_unanswered_observation_to_the_next_answer_in_time() -> None:
    outcomes = [
        outcome("a", 0.0, 0.05),
        outcome("a", 1.0, 1.5),  # too late
        outcome("a", 2.0, 2.1, "expired"),
        outcome("a", 3.0, 3.05),
        outcome("a", 5.0, 5.01),
    ]
    assert measure(Run("s", 10.0, outcomes, [], (0.0, 0.0))).overall.longest_wait_s == pytest.approx(2.05)
    unanswered = [outcome("a", 0.0, 5.0, "expired"), outcome("a", 4.0, 5.0, "expired")]
    assert measure(Run("s", 10.0, unanswered, [], (0.0, 0.0))).overall.longest_wait_s == pytest.approx(4.1)


def test_what_is_still_open_after_its_deadline_is_missed() -> None:
    outcomes = [outcome("a", 0.0, 1.0, "open"), outcome("b", 0.5, 0.55), outcome("c", 0.95, 1.0, "open")]
    overall = measure(Run("s", 1.0, outcomes, [], (0.0, 0.0))).overall
    assert overall.miss_rate == pytest.approx(1 / 2)
    assert overall.open_yet == 1


def test_jains_index() -> None:
    assert jain([1, 1, 1, 1]) == 1.0
    assert jain([1, 0, 0, 0]) == 0.25
    assert jain([]) == 1.0
