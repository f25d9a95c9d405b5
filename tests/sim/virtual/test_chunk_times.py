"""What the simulated server knows of a robot's chunks is what a server does."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from inferential.scheduler.time.robot_time import ChunkTime
from inferential.sim.virtual.chunk_times import chunk_time
from inferential.sim.virtual.closed import Ask, Observation
from inferential.sim.virtual.world import ChunkedRobot

NOW = 50.0
ROBOT = ChunkedRobot("a", "m", "arm", period_s=0.02, horizon_steps=25, delay_s=0.005)


def observed(robot: ChunkedRobot, steps: int) -> Observation:
    return Observation(1, Ask(NOW, NOW + 1), 0, NOW, steps, robot)


def test_the_server_knows_by_which_index_a_runtime_plays() -> None:
    goes_on = chunk_time(observed(ROBOT, 9), NOW, None)
    assert (goes_on.covers_until, goes_on.most_s) == (math.inf, pytest.approx(0.3))
    by_time = chunk_time(observed(replace(ROBOT, index="time"), 9), NOW, None)
    assert (by_time.covers_until, by_time.most_s) == (pytest.approx(NOW + 0.49), math.inf)
    assert goes_on.runs_out_at == by_time.runs_out_at == pytest.approx(NOW + 0.19)


@pytest.mark.parametrize(("index", "until_s"), [("executed", 0.7), ("time", 0.49)])
def test_a_chunk_under_way_counts_as_what_the_robot_has(index: str, until_s: float) -> None:
    """It stands, and its last observation has just been dispatched."""
    robot = replace(ROBOT, index=index)  # type: ignore[arg-type]
    under_way = chunk_time(observed(robot, 0), NOW, None)
    assert isinstance(under_way, ChunkTime)
    later = chunk_time(observed(robot, 0), NOW + 0.2, under_way)
    assert later.runs_out_at == pytest.approx(NOW + until_s - (0.01 if index == "executed" else 0.0))
