"""LeRobot's asynchronous inference, with messages recorded from lerobot 0.6.1; the real client is in test_peers."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import grpc
import numpy as np
import pytest
from tests.gateway.conftest import JointPolicy, Open
from tests.gateway.lerobot_robot import OBSERVATION, Gate, config, connected, observation, refused

from inferential import InferenceRequest, LocalDispatcher, Server
from inferential.config.gateways import LeRobotConfig
from inferential.gateway.base import GatewayClient
from inferential.gateway.lerobot import LeRobotGateway
from inferential.gateway.lerobot.messages import Empty
from inferential.gateway.lerobot.robot import Robot

STATE = [28.0, 29.0, 30.0, 31.0, 32.0, 33.0]


# The conversation


async def test_a_recorded_robot_gets_its_chunk_and_the_model_sees_it_as_lerobots_policies_do(lerobot: Open) -> None:
    policy = JointPolicy()
    async with lerobot(policy) as (_, gateway), connected(gateway.address) as robot:
        await robot.begin()
        await robot.send(OBSERVATION)
        actions = await robot.actions()
    assert len(actions) == 50  # of 60: actions_per_chunk
    assert [one.timestep for one in actions] == list(range(170, 220))
    np.testing.assert_allclose([one.timestamp for one in actions], 1000.0 + np.arange(50) / 30)
    np.testing.assert_allclose(actions[3].action, np.array(STATE) + 0.003, rtol=1e-6)
    (seen,) = policy.seen
    assert set(seen) == {"observation.state", "observation.images.front", "task"}
    assert (seen["observation.state"].dtype, seen["observation.state"].tolist()) == (np.float32, STATE)
    image = seen["observation.images.front"]
    assert (image.dtype, image.shape, image[0, 5].tolist()) == (np.uint8, (48, 64, 3), [5, 0, 0])
    assert seen["task"] == "pick up the cube"


async def test_two_robots_at_once_get_their_own_actions(lerobot: Open) -> None:
    async with lerobot() as (server, gateway):

        async def drive(number: int) -> None:
            async with connected(gateway.address) as robot:
                await robot.begin()
                for step in range(20):
                    await robot.send(observation(100.0 * number + step, step, must_go=step == 0))
                    actions = await robot.actions()
                    assert [one.timestep for one in actions] == list(range(step, step + 50))
                    assert actions[0].action[0] == 100 * number + step

        await asyncio.gather(drive(1), drive(2))
        assert len(server.status().clients) == 2
        assert len(server.connected_robots) == 2


async def test_motors_may_be_arrays_of_one_number(lerobot: Open) -> None:
    motors = {"gripper.pos": np.array([0.5], np.float32), "elbow_flex.pos": np.float32(0.25)}
    policy = JointPolicy()
    async with lerobot(policy) as (_, gateway), connected(gateway.address) as robot:
        await robot.begin()
        await robot.send(observation(1.0, **motors))
        assert len(await robot.actions()) == 50
    assert policy.seen[0]["observation.state"].tolist() == [1.0, 2.0, 0.25, 4.0, 5.0, 0.5]


async def test_an_observation_may_come_in_pieces(lerobot: Open) -> None:
    async with lerobot() as (_, gateway), connected(gateway.address) as robot:
        await robot.begin()
        await robot.send(observation(3.0), piece=1000)
        assert (await robot.actions())[0].action[0] == 3.0


async def test_names_are_changed_as_the_robot_asks(lerobot: Open) -> None:
    policy = JointPolicy()
    async with lerobot(policy) as (_, gateway), connected(gateway.address) as robot:
        await robot.begin(config(rename_map={"observation.images.front": "observation.images.camera1"}))
        await robot.send(observation(1.0))
        await robot.actions()
    assert "observation.images.camera1" in policy.seen[0]


async def test_where_there_are_no_actions_the_answer_is_empty_after_a_while(lerobot: Open) -> None:
    async with lerobot(wait_ms=20.0) as (_, gateway), connected(gateway.address) as robot:
        await robot.begin()
        assert await robot.actions() == []


async def test_a_slow_first_call_is_answered_by_a_later_get_actions(lerobot: Open) -> None:
    gate = Gate()
    async with lerobot(gate, wait_ms=20.0) as (_, gateway), connected(gateway.address) as robot:
        await robot.begin()
        await robot.send(observation(7.0))
        await gate.entered.wait()
        assert await robot.actions() == []
        gate.leave.set()
        assert (await robot.some_actions())[0].action[0] == 7.0


async def test_the_server_learns_when_the_robots_own_queue_runs_dry(lerobot: Open) -> None:
    ended: list[InferenceRequest] = []
    async with lerobot(fps=20.0) as (server, gateway), connected(gateway.address) as robot:
        server.on_request(ended.append)
        await robot.begin()
        for step, must_go in ((0, True), (30, False), (79, True)):
            await robot.send(observation(1.0, step, must_go=must_go))
            await robot.actions()
    assert [request.steps_remaining for request in ended] == [0, 19, 0]
    assert ended[1].deadline - ended[1].received_at == pytest.approx(19 / 20, abs=0.06)


async def test_ready_begins_an_episode(lerobot: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    async def end(client: Any) -> None:
        ended.append("episode")

    monkeypatch.setattr("inferential.gateway.base.GatewayClient.end_episode", end)
    requests: list[InferenceRequest] = []
    async with lerobot() as (server, gateway), connected(gateway.address) as robot:
        server.on_request(requests.append)
        for _ in range(2):
            await robot.begin()
            await robot.send(observation(1.0, 10))
            await robot.actions()
    assert ended == ["episode", "episode"]
    assert [request.steps_remaining for request in requests] == [0, 0]  # not 49: that chunk was of another episode


# Newer observations


async def test_while_a_model_computes_the_newest_is_held_and_dropped_with_the_answer(lerobot: Open) -> None:
    gate = Gate()
    async with lerobot(gate, wait_ms=50.0) as (server, gateway), connected(gateway.address) as robot:
        await robot.begin()
        await robot.send(observation(1.0))
        await gate.entered.wait()
        for state in (2.0, 3.0):
            await robot.send(observation(state))
        gate.leave.set()
        assert (await robot.some_actions())[0].action[0] == 1.0
        assert await robot.actions() == []
        skipped = server.metrics.snapshot().metrics["lerobot_observations_skipped"]
    assert gate.seen == [1.0]
    assert [point["labels"]["reason"] for point in skipped] == ["replaced", "answered"]


async def test_a_held_observation_that_must_go_goes_after_the_answer(lerobot: Open) -> None:
    gate = Gate()
    async with lerobot(gate) as (_, gateway), connected(gateway.address) as robot:
        await robot.begin()
        await robot.send(observation(1.0))
        await gate.entered.wait()
        await robot.send(observation(2.0, must_go=True))
        await robot.send(observation(3.0))  # newer, and for the same need
        gate.leave.set()
        assert (await robot.actions())[0].action[0] == 1.0
        assert (await robot.actions())[0].action[0] == 3.0


async def test_a_newer_observation_takes_the_place_of_one_that_waits(lerobot: Open) -> None:
    gate = Gate()
    async with (
        lerobot(gate) as (_, gateway),
        connected(gateway.address) as first,
        connected(gateway.address) as second,
    ):
        for robot in (first, second):
            await robot.begin()
        await first.send(observation(1.0))
        await gate.entered.wait()
        for state in (2.0, 3.0):
            await second.send(observation(state, int(state)))
        gate.leave.set()
        actions = await second.actions()
    assert gate.seen == [1.0, 3.0]
    assert (actions[0].timestep, actions[0].action[0]) == (3, 3.0)


async def test_similar_observations_are_skipped_where_the_file_says_so(lerobot: Open) -> None:
    policy = JointPolicy()
    async with lerobot(policy, skip_similar=True, wait_ms=20.0) as (_, gateway), connected(gateway.address) as robot:
        await robot.begin()
        await robot.send(observation(1.0, 0))
        await robot.some_actions()
        await robot.send(observation(1.3, 1))  # moved 0.3 in each of six joints: 0.73
        await robot.send(observation(9.0, 0))  # its timestep was answered
        assert await robot.actions() == []
        await robot.send(observation(1.3, 1, must_go=True))
        assert len(await robot.some_actions()) == 50
        await robot.send(observation(1.8, 2))
        assert len(await robot.some_actions()) == 50
    assert [one["observation.state"][0] for one in policy.seen] == pytest.approx([1.0, 1.3, 1.8])


# Connections


async def test_a_robot_that_lost_its_connection_goes_on_over_a_new_one(lerobot: Open) -> None:
    async with lerobot() as (_, gateway):
        async with connected(gateway.address) as robot:
            await robot.begin()
            await robot.send(OBSERVATION)
            await robot.actions()
        async with connected(gateway.address) as robot:
            await robot.send(OBSERVATION)
            assert len(await robot.actions()) == 50


async def test_a_robot_that_never_said_what_it_is_is_refused(lerobot: Open) -> None:
    async with lerobot() as (_, gateway), connected(gateway.address) as robot:
        await robot.ready(Empty())
        code, text = await refused(robot.send(OBSERVATION))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert text.startswith("no policy instructions of this robot")


@pytest.fixture
def asks(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set while or after a robot asks for actions."""
    asked, actions = asyncio.Event(), Robot.actions

    async def noted(robot: Robot, wait_s: float) -> bytes:
        asked.set()
        return await actions(robot, wait_s)

    monkeypatch.setattr(Robot, "actions", noted)
    return asked


async def test_two_clients_over_one_connection_are_refused_until_one_begins_alone(
    lerobot: Open, asks: asyncio.Event
) -> None:
    async with lerobot(wait_ms=1000.0) as (_, gateway), connected(gateway.address) as robot:
        await robot.begin()
        first = asyncio.create_task(robot.actions())
        await asks.wait()
        for call in (robot.actions(), first, robot.send(OBSERVATION), robot.actions()):
            code, text = await refused(call)
            assert code is grpc.StatusCode.ALREADY_EXISTS
            assert "start each RobotClient in its own process" in text
        await robot.begin()
        await robot.send(OBSERVATION)
        assert len(await robot.actions()) == 50


async def test_ready_waits_for_the_last_call_of_an_ended_client(lerobot: Open, asks: asyncio.Event) -> None:
    async with lerobot(wait_ms=10_000.0) as (_, gateway), connected(gateway.address) as robot:
        await robot.begin()
        asking = asyncio.create_task(robot.actions())
        await asks.wait()
        assert (await refused(robot.begin()))[0] is grpc.StatusCode.ALREADY_EXISTS
        asking.cancel()
        await robot.begin()


async def test_a_silent_robot_is_forgotten(lerobot: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferential.gateway.lerobot.service.FORGET_S", 0.02)
    closed, close = asyncio.Event(), GatewayClient.close
    monkeypatch.setattr(GatewayClient, "close", lambda client: (close(client), closed.set()))
    async with lerobot() as (server, gateway), connected(gateway.address) as robot:
        await robot.begin()
        await asyncio.wait_for(closed.wait(), 60)
        assert server.status().sizes["inprocess_clients"] == 0


async def test_of_very_many_robots_those_that_are_silent_give_way(
    lerobot: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inferential.gateway.lerobot.service.MAX_ROBOTS", 1)
    async with (
        lerobot(wait_ms=10_000.0) as (server, gateway),
        connected(gateway.address) as one,
        connected(gateway.address) as other,
    ):
        for robot in (one, other, one):
            await robot.begin()
        assert server.status().sizes["inprocess_clients"] == 1
        waiting = asyncio.ensure_future(one.actions())
        code, text = grpc.StatusCode.OK, ""
        while code is not grpc.StatusCode.RESOURCE_EXHAUSTED:  # until that call is open, it takes the other's place
            try:
                await other.begin()
            except grpc.aio.AioRpcError as error:
                code, text = error.code(), error.details() or ""
        assert text == "1 robots have calls open"
        waiting.cancel()


async def test_two_gateways_on_one_port_are_refused() -> None:
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"act": JointPolicy()})) as server,
        LeRobotGateway(server, LeRobotConfig(model="act", port=0)) as first,
    ):
        port = int(first.address.rpartition(":")[2])
        second = LeRobotGateway(server, LeRobotConfig(model="act", port=port))
        with pytest.raises(OSError, match=f"gateways.lerobot: cannot listen on 127.0.0.1:{port}: Address already"):
            await second.start()


def test_another_programs_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        async def start() -> None:
            async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"act": JointPolicy()})) as server:
                await LeRobotGateway(server, LeRobotConfig(model="act", port=port)).start()

        with pytest.raises(OSError, match="Address already in use"):
            asyncio.run(start())
