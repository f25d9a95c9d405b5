"""Robots and policies in virtual time: fresh actions keep a robot up, old ones and none do not."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest

from inferential.sim import camera
from inferential.sim.hopper import Hopper
from inferential.sim.policies import BalancePolicy, BallPolicy, HopperPolicy, locate, open_ball_policy
from inferential.sim.robots import DOWN_S, BallPlate, CartPole, Robot

POLICIES: dict[type[Robot], Any] = {CartPole: BalancePolicy, BallPlate: BallPolicy, Hopper: HopperPolicy}
KINDS = tuple(POLICIES)


def drive(robot: Robot, policy: Any, delay_s: float, seconds: float) -> None:
    """Runs a robot whose actions come into force `delay_s` after the observation that they are made from."""
    coming: deque[tuple[float, Any]] = deque()
    next_observation = 0.0
    for step in range(int(seconds / robot.physics_step_s)):
        now = step * robot.physics_step_s
        if now >= next_observation - 1e-9:
            next_observation += 1 / robot.control_rate_hz
            coming.append((now + delay_s, policy.infer(robot.observe())["actions"]))
        while coming and coming[0][0] <= now + 1e-9:
            robot.act(coming.popleft()[1])
        robot.step()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("delay_s", [0.0, 0.05])
def test_a_robot_with_fresh_actions_stays_up_for_half_a_minute(kind: type[Robot], delay_s: float) -> None:
    robot = kind(seed=1)
    drive(robot, POLICIES[kind](), delay_s, 30.0)
    assert robot.falls == 0
    assert robot.up_s == pytest.approx(30.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_robot_with_old_actions_falls_again_and_again(kind: type[Robot]) -> None:
    robot = kind(seed=1)
    drive(robot, POLICIES[kind](), 0.4, 15.0)
    assert robot.falls >= 3
    assert robot.up_s < 13.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_a_robot_that_is_starved_falls_within_seconds(kind: type[Robot], seed: int) -> None:
    robot = kind(seed)
    for _ in range(int(8 / robot.physics_step_s)):
        robot.step()
    assert robot.falls >= 1


@pytest.mark.parametrize("seed", range(3))
def test_the_hopper_is_kept_up_by_actions_of_its_deadline_and_not_by_those_of_twice_that(seed: int) -> None:
    robots = [Hopper(seed), Hopper(seed)]
    for robot, delay_s in zip(robots, (Hopper.deadline_ms / 1e3, 2 * Hopper.deadline_ms / 1e3), strict=True):
        drive(robot, HopperPolicy(), delay_s, 10.0)
    assert robots[0].falls == 0
    assert robots[1].falls >= 2


def test_the_hopper_fails_where_gymnasium_calls_it_unhealthy() -> None:
    # healthy_z_range, healthy_angle_range and healthy_state_range of Hopper-v5.
    for place, value in ((1, 0.69), (2, 0.21), (2, -0.21), (4, 101.0)):
        robot = Hopper(seed=0)
        assert not robot.has_failed()
        robot.data.qpos[place] = value
        assert robot.has_failed()
    robot.reset()
    robot.data.qvel[3] = -101
    assert robot.has_failed()


def test_the_hopper_observes_what_gymnasium_does() -> None:
    robot = Hopper(seed=0)
    robot.data.qvel[:] = [12, -12, 0.5, 1, 2, 3]
    robot.act(np.array([0.5, -3.0, 0.0]))
    seen = robot.observe()
    np.testing.assert_allclose(seen["state"], [*robot.data.qpos[1:], 10, -10, 0.5, 1, 2, 3], rtol=1e-6)
    np.testing.assert_array_equal(seen["torque"], np.float32([0.5, -1.0, 0.0]))


def test_a_robot_that_fell_lies_there_and_is_set_up_again() -> None:
    robot = CartPole(seed=0)
    while robot.up:
        robot.step()
    fell_at = robot.time_s
    while not robot.up:
        robot.step()
    assert robot.time_s - fell_at == pytest.approx(DOWN_S, abs=2 * robot.physics_step_s)
    assert abs(robot.data.qpos[1]) < 0.3
    assert robot.falls == 1


def test_the_same_seed_gives_the_same_run() -> None:
    runs = []
    for _ in range(2):
        robot = BallPlate(seed=7)
        drive(robot, BallPolicy(), 0.03, 3.0)
        runs.append(robot.ball_position())
    np.testing.assert_array_equal(*runs)


def test_actions_beyond_the_actuators_range_are_clipped() -> None:
    robot = CartPole(seed=0)
    robot.act(np.array([1e6]))
    assert robot.data.ctrl[0] == 25.0


def test_the_shipped_network_finds_the_ball_to_a_few_millimetres() -> None:
    chance = np.random.default_rng(123)
    positions = chance.uniform(-0.2, 0.2, (300, 2))
    images = np.stack([camera.draw(position, chance) for position in positions])
    errors_m = np.linalg.norm(locate(images, BallPolicy().weights) - positions, axis=1)
    assert errors_m.mean() < 0.004
    assert np.percentile(errors_m, 99) < 0.015


def test_the_shipped_onnx_file_gives_what_the_policy_in_numpy_gives() -> None:
    observations = [BallPlate(seed).observe() for seed in range(8)]
    expected = BallPolicy().infer_batch(observations)
    for got, wanted in zip(open_ball_policy().infer_batch(observations), expected, strict=True):
        np.testing.assert_allclose(got["actions"], wanted["actions"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_what_its_rows_give_alone(kind: type[Robot]) -> None:
    policy = POLICIES[kind]()
    observations = [kind(seed).observe() for seed in range(5)]
    batch = policy.infer_batch(observations)
    for observation, row in zip(observations, batch, strict=True):
        np.testing.assert_allclose(row["actions"], policy.infer(observation)["actions"], rtol=1e-4, atol=1e-6)
