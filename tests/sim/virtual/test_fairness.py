"""Robots that play chunks and are more than can be served starve alike, whenever they came."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from inferential.sim.virtual import generate
from inferential.sim.virtual.fleet_file import Fleet
from inferential.sim.virtual.simulation import simulate
from inferential.sim.virtual.starvation import play_of
from inferential.sim.virtual.world import Run

MODEL = {"fixed_ms": 65.4, "per_row_ms": 10.57, "max_batch_size": 8, "turnaround_ms": 0}
ARM = {"model": "m", "kind": "chunked", "rate_hz": 50, "horizon_steps": 25, "delay_ms": 5}


def run(seed: int, seconds: float, **robots: dict[str, Any]) -> Run:
    fleet = Fleet.model_validate({"models": {"m": MODEL}, "robots": robots})
    return simulate(
        generate.models(fleet),
        [],
        "slo_aware",
        seconds=seconds,
        seed=seed,
        robots=generate.chunked_robots(fleet, seed=seed),
        profiled=True,
    )


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("refresh", [False, True])
@pytest.mark.parametrize("index", ["time", "executed"])
def test_no_robot_starves_much_more_than_others_that_are_alike(index: str, refresh: bool, seed: int) -> None:
    play = play_of(run(seed, 8.0, arm={**ARM, "count": 32, "index": index, "refresh": refresh}))
    assert play is not None
    assert play.starved > 0.2
    assert play.starved_worst < 1.15 * play.starved


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("index", ["time", "executed"])
def test_robots_that_come_later_are_not_answered_more_seldom(index: str, seed: int) -> None:
    """Twelve join twenty, which starved less until then, as there was an answer for each of them every 0.38 s."""
    arm = {**ARM, "index": index}
    done = run(seed, 9.0, first={**arm, "count": 20}, late={**arm, "count": 12, "start_s": 3.0})
    answered = Counter(one.arrival.robot_class for one in done.outcomes if one.end == "answered" and one.ended_at > 4.0)
    assert 0.97 < (answered["late"] / 12) / (answered["first"] / 20) < 1.1
