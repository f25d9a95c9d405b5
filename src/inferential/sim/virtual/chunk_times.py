"""What an answer is worth to a simulated robot, as its server knows it (`server.chunk_times`)."""

from __future__ import annotations

import math

from inferential.scheduler.time.robot_time import ChunkTime
from inferential.sim.virtual.closed import Observation


def chunk_time(observation: Observation, now: float, under_way: ChunkTime | None) -> ChunkTime:
    """Returns what a server makes of an observation that says steps remaining, horizon, control rate and index.

    Args:
        observation: what the robot sent.
        now: when it arrives.
        under_way: what a chunk adds that the robot did not have then and will have.
    """
    robot = observation.robot
    runs_out_at = now + observation.steps_remaining * robot.period_s
    lasts_s = robot.horizon_steps * robot.period_s
    whole_s = (robot.chunk_steps or robot.horizon_steps) * robot.period_s
    if robot.index == "time" or robot.ask == "runtime":
        network_s = 2 * robot.delay_s
        if observation.steps_remaining:
            runs_out_at += robot.period_s  # they are left after the present one
        if under_way is not None:
            runs_out_at = max(runs_out_at, under_way.plays_until(now - network_s) + network_s)
        goes_on = robot.index == "executed"
        return ChunkTime(
            runs_out_at - network_s,
            math.inf if goes_on else now + whole_s - network_s,
            lasts_s,
            max(whole_s - (runs_out_at - now), 0.0) if goes_on else math.inf,
            renews=robot.renews,
            lead_s=network_s + robot.period_s if robot.renews else 0.0,
            steps_at=now - network_s,
            step_s=robot.period_s,
        )
    return ChunkTime(runs_out_at, math.inf, lasts_s, whole_s - observation.steps_remaining * robot.period_s)
