"""Arrivals of a fleet: in rhythm, out of step, and of chance that is the seed's."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from inferential.sim.virtual import generate
from inferential.sim.virtual.fleet_file import Fleet

Make = Callable[..., Fleet]


def test_a_periodic_robot_asks_every_period_with_its_budget(make_fleet: Make) -> None:
    arrivals = generate.arrivals(make_fleet(arm={"count": 1}), seconds=2, seed=0)
    gaps = [after.at - before.at for before, after in pairwise(arrivals)]
    assert gaps == pytest.approx([0.05] * 39)
    assert all(arrival.deadline - arrival.at == pytest.approx(0.1) for arrival in arrivals)


def test_load_is_more_robots_and_leaves_the_others_as_they_are(make_fleet: Make) -> None:
    fleet = make_fleet(arm={"jitter_ms": 3})
    few, many = (generate.arrivals(fleet, seconds=2, seed=3, load=load) for load in (1.0, 2.0))
    assert {arrival.client_id for arrival in many} == {f"arm-{number}" for number in range(4)}
    assert [arrival for arrival in many if arrival.client_id in ("arm-0", "arm-1")] == few


def test_a_chunked_robot_asks_when_so_many_steps_are_left(make_fleet: Make) -> None:
    chunked = {"kind": "chunked", "loop": "open", "rate_hz": 50, "horizon_steps": 50, "ask_at_steps": 20}
    arrivals = generate.arrivals(make_fleet(arm={**chunked, "budget_ms": None, "count": 1}), seconds=6, seed=0)
    assert [after.at - before.at for before, after in pairwise(arrivals)] == pytest.approx([0.6] * (len(arrivals) - 1))
    assert all(arrival.deadline - arrival.at == pytest.approx(0.4) for arrival in arrivals)
    assert {arrival.steps_remaining for arrival in arrivals} == {20}


def test_irregular_robots_ask_as_often_on_average(make_fleet: Make) -> None:
    arrivals = generate.arrivals(make_fleet(arm={"kind": "irregular", "count": 20}), seconds=50, seed=0)
    assert len(arrivals) == pytest.approx(20 * 20 * 50, rel=0.05)


def test_robots_join_and_leave(make_fleet: Make) -> None:
    arrivals = generate.arrivals(make_fleet(arm={"start_s": 1, "stop_s": 2}), seconds=5, seed=0)
    assert 1 <= arrivals[0].at < 1.05
    assert arrivals[-1].at < 2


def test_a_robot_in_closed_loop_is_as_its_class_says(make_fleet: Make) -> None:
    closed = {"kind": "chunked", "rate_hz": 50, "horizon_steps": 20, "delay_ms": 5, "jitter_ms": 1, "budget_ms": 90}
    fleet = make_fleet(arm={**closed, "count": 2}, hand={**closed, "ask_at_steps": 4, "slo_ms": 50, "start_s": 2})
    assert generate.arrivals(fleet, seconds=5, seed=0) == []
    arm, _, hand, _ = generate.chunked_robots(fleet, seed=0)
    assert (arm.client_id, arm.robot_class, arm.horizon_steps, arm.ask) == ("arm-0", "arm", 20, "runtime")
    assert (arm.period_s, arm.delay_s, arm.delay_jitter_s, arm.slo_s) == pytest.approx((0.02, 0.005, 0.001, 0.09))
    assert 0 <= arm.starts_at < 0.4
    assert (hand.ask, hand.ask_at_steps, hand.slo_s) == ("threshold", 4, 0.05)
    assert 2 <= hand.starts_at < 2.4
    assert len(generate.chunked_robots(fleet, seed=0, load=2)) == 8


@pytest.mark.parametrize("kind", ["periodic", "chunked"])
def test_more_than_memory_would_do_for_is_refused_by_class(make_fleet: Make, kind: str) -> None:
    robots = {"kind": kind, "horizon_steps": 9} if kind == "chunked" else {"kind": kind}
    fleet = make_fleet(arm={"count": 10_000, "rate_hz": 50, **robots})
    with pytest.raises(ValueError, match=r"robots\.arm: 20,000 robots make 60,000,000 .* in 60 s"):
        generate.arrivals(fleet, seconds=60, seed=0, load=2)
