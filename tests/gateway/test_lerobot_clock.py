"""How old observations of LeRobot's robots are, whose clocks are their own."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest
from tests.gateway.conftest import JointPolicy, Open
from tests.gateway.lerobot_robot import TimedObservation, as_lerobot, connected, dumped, observation

from inferential.gateway.lerobot.clock import RobotClock


def test_the_quickest_observation_counts_as_seen_when_it_arrived() -> None:
    clock = RobotClock()
    assert clock.captured_at(1_000.0, 5.00) == 5.0
    assert clock.captured_at(1_000.1, 5.30) == pytest.approx(5.1)  # 200 ms later than the first
    assert clock.captured_at(1_000.2, 5.15) == pytest.approx(5.15)  # a quicker one
    assert clock.captured_at(1_000.3, 5.35) == pytest.approx(5.25)


def test_a_clock_that_was_set_makes_no_observation_old() -> None:
    clock = RobotClock()
    clock.captured_at(1_000.0, 5.0)
    assert clock.captured_at(4_600.1, 5.1) == pytest.approx(5.1)
    assert clock.captured_at(1_000.2, 5.2) == pytest.approx(5.2)


def test_clocks_that_drift_apart_are_followed() -> None:
    clock = RobotClock()
    for step in range(1000):
        age = 1.001 * step - clock.captured_at(step, 1.001 * step)
        assert 0.0 <= age < 0.1


async def test_the_models_see_when_an_observation_was_seen_and_the_server_counts_how_old_it_is(lerobot: Open) -> None:
    class Policy(JointPolicy):
        sees_timestamps = True

    def at(timestamp: float, timestep: int) -> bytes:
        with as_lerobot():
            known: Any = pickle.loads(observation(1.0))
        return dumped(TimedObservation(timestamp, timestep, known.observation, must_go=True))

    policy = Policy()
    async with lerobot(policy) as (server, gateway), connected(gateway.address) as robot:
        await robot.begin()
        for step, timestamp in enumerate((1_000_000.0, 999_998.0)):
            await robot.send(at(timestamp, step))
            async with asyncio.timeout(60):
                while not await robot.actions():
                    pass
        ages = [point["value"] for point in server.metrics.snapshot().metrics["observation_staleness_ms"]]
    assert ages[0] < 1000.0
    assert 2000.0 <= ages[1] < 12_000.0
    assert policy.seen[0]["captured_at"] - policy.seen[1]["captured_at"] == pytest.approx(2.0, abs=0.1)
