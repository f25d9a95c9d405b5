"""Measures of robots in closed loop, by hand."""

from __future__ import annotations

import pytest

from inferential.sim.virtual.starvation import play_by_class, play_of, starved_share
from inferential.sim.virtual.world import ChunkedRobot, Played, Run


def played(name: str, steps: int, executed: int, value: float = 1.0, tasks_s: tuple[float, ...] = ()) -> Played:
    robot = ChunkedRobot(name, "m", name[0], 0.1, 10, weight=value)
    return Played(robot, steps, executed, 0.5, [10.0] * executed, executed // 2, 10, 9, tasks_s)


def test_robots_are_summed_up_by_class_and_in_all() -> None:
    robots = [played("a1", 100, 100, tasks_s=(1.0, 3.0)), played("a2", 100, 50), played("b1", 100, 90, 2.0)]
    run = Run("s", 10.0, [], [], (0.0, 0.0), robots)
    everyone, classes = play_of(run), play_by_class(run)
    assert everyone is not None
    assert (everyone.robots, everyone.steps) == (3, 300)
    assert everyone.starved == pytest.approx(0.2)
    assert everyone.starved_worst == pytest.approx(0.5)
    assert everyone.executed_per_s == pytest.approx(24.0)
    assert everyone.in_slo == pytest.approx(0.9)
    assert everyone.qualified_per_s == pytest.approx((50 + 25 + 2 * 45) / 10)
    assert (everyone.tasks, everyone.task_s) == (2, 2.0)
    assert classes["b"].task_s is None
    assert classes["a"].starved == pytest.approx(0.25)
    assert everyone.as_dict()["starved"] == everyone.starved


def test_a_run_without_robots_in_closed_loop_has_no_such_measures() -> None:
    run = Run("s", 10.0, [], [], (0.0, 0.0))
    assert play_of(run) is None
    assert play_by_class(run) == {}


def test_a_robot_without_a_step_did_not_starve() -> None:
    assert starved_share(played("a", 0, 0)) == 0.0
