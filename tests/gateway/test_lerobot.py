"""LeRobot's asynchronous inference, with messages recorded from lerobot 0.6.1; the real client is in test_peers."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import grpc
import numpy as np
import pytest
from tests.gateway.conftest import JointPolicy, Open
from tests.gateway.lerobot_robot import OBSERVATION, config, connected, dumped, observation

from inferential import InferenceRequest, LocalDispatcher, Server
from inferential.config.gateways import LeRobotConfig
from inferential.gateway.base import GatewayClient
from inferential.gateway.lerobot import LeRobotGateway
from inferential.gateway.lerobot.messages import SERVICE, Empty, Observation

STATE = [28.0, 29.0, 30.0, 31.0, 32.0, 33.0]


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


class Gate:
    """A model that begins each call only when it may."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.entered = asyncio.Event()
        self.leave = asyncio.Event()

    async def infer(self, one: dict[str, Any]) -> Any:
        self.seen.append(float(one["observation.state"][0]))
        self.entered.set()
        await self.leave.wait()
        if self.seen[-1] < 0:
            raise ValueError("no such cup")
        return np.full((50, 6), self.seen[-1])


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
        while not (actions := await robot.actions()):
            pass
        assert actions[0].action[0] == 7.0


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
        assert (await robot.actions())[0].action[0] == 1.0
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
        gate.leave.set()
        assert (await robot.actions())[0].action[0] == 1.0
        assert (await robot.actions())[0].action[0] == 2.0


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
        await robot.actions()
        await robot.send(observation(1.3, 1))  # moved 0.3 in each of six joints: 0.73
        await robot.send(observation(9.0, 0))  # its timestep was answered
        assert await robot.actions() == []
        await robot.send(observation(1.3, 1, must_go=True))
        assert len(await robot.actions()) == 50
        await robot.send(observation(1.8, 2))
        assert len(await robot.actions()) == 50
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


async def test_two_clients_over_one_connection_are_refused(lerobot: Open) -> None:
    async with lerobot(wait_ms=400.0) as (_, gateway), connected(gateway.address) as robot:
        await robot.begin()
        asking = asyncio.create_task(robot.actions())
        await asyncio.sleep(0.05)
        code, text = await refused(robot.actions())
        await asking
    assert code is grpc.StatusCode.ALREADY_EXISTS
    assert "start each RobotClient in its own process" in text


async def test_ready_waits_for_the_last_call_of_an_ended_client(lerobot: Open) -> None:
    async with lerobot(wait_ms=10_000.0) as (_, gateway), connected(gateway.address) as robot:
        await robot.begin()
        asking = asyncio.create_task(robot.actions())
        await asyncio.sleep(0.05)
        assert (await refused(robot.begin()))[0] is grpc.StatusCode.ALREADY_EXISTS
        asking.cancel()
        await robot.begin()


async def test_a_silent_robot_is_forgotten(lerobot: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferential.gateway.lerobot.service.FORGET_S", 0.02)
    closed, close = asyncio.Event(), GatewayClient.close
    monkeypatch.setattr(GatewayClient, "close", lambda client: (close(client), closed.set()))
    async with lerobot() as (server, gateway), connected(gateway.address) as robot:
        await robot.begin()
        await asyncio.wait_for(closed.wait(), 10)
        assert server.status().sizes["inprocess_clients"] == 0


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


# What is wrong


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([], "the stream of an observation ended after 0 bytes"),
        ([(1, b"abc")], "ended after 3 bytes"),
        ([(1, b"abc"), (2, b"d")], "ended after 4 bytes"),
        ([(0, b"abc")], "transfer_state: expected 1, 2 or 3, got 0"),
        ([(9, b"abc")], "transfer_state: expected 1, 2 or 3, got 9"),
        ([(1, b"x" * 600), (3, b"y" * 600)], "an observation of more than 1000 bytes"),
        ([(3, b"abc")], "pickle: "),
    ],
)
async def test_half_and_overlong_streams_are_refused_and_the_robot_goes_on(
    lerobot: Open, parts: list[tuple[int, bytes]], text: str
) -> None:
    sections = {"observations": {"max_payload_bytes": 1000}}
    small = {
        "lerobot_features": {"observation.state": {"dtype": "float32", "shape": (1,), "names": ["shoulder_pan.pos"]}}
    }
    async with lerobot(sections=sections) as (_, gateway), connected(gateway.address) as robot:
        await robot.begin(config(**small))
        code, details = await refused(robot.stream(parts))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert text in details
        await robot.send(observation(5.0, front=0.0))
        assert (await robot.actions())[0].action[0] == 5.0


async def test_a_stream_that_stalls_ends(lerobot: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferential.gateway.lerobot.service.RECEIVE_S", 0.05)
    async with lerobot() as (_, gateway), connected(gateway.address) as robot:
        await robot.begin()

        async def stalled() -> Any:
            yield Observation(transfer_state=1, data=b"abc")
            await asyncio.sleep(10)

        code, text = await refused(robot.observe(stalled()))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "has not ended within 0.05 s" in text


async def test_a_message_over_4_mb_is_refused(lerobot: Open) -> None:
    async with lerobot() as (_, gateway), connected(gateway.address) as robot:
        await robot.begin()
        code, _ = await refused(robot.stream([(3, b"x" * (4 * 1024 * 1024 + 100))]))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        await robot.send(OBSERVATION)
        assert len(await robot.actions()) == 50


@pytest.mark.parametrize(
    ("instructions", "text"),
    [
        (OBSERVATION, "expected a RemotePolicyConfig, got TimedObservation"),
        (dumped([]), "expected a RemotePolicyConfig, got list"),
        (config(actions_per_chunk=0), "actions_per_chunk: expected 1 to 99999, got 0"),
        (config(actions_per_chunk="50"), "actions_per_chunk: expected int, got str"),
        (config(lerobot_features={"observation.state": 1}), "observation.state: expected a map, got int"),
        (
            config(lerobot_features={"observation.state": {"dtype": "float32", "shape": (6,), "names": {"a": 1}}}),
            "observation.state: expected a list of names",
        ),
        (config(rename_map={"a": 1}), "rename_map: expected text by text"),
        (config(rename_map=None), "rename_map: expected dict, got NoneType"),
    ],
)
async def test_instructions_that_cannot_be_followed_are_named(lerobot: Open, instructions: bytes, text: str) -> None:
    async with lerobot() as (_, gateway), connected(gateway.address) as robot:
        await robot.ready(Empty())
        code, details = await refused(robot.instruct(instructions))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text in details


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (config(), "expected a TimedObservation, got RemotePolicyConfig"),
        (observation(1.0, front=3.0), "observation: front: expected the image of a camera"),
        (observation(1.0, **{"gripper.pos": "open"}), "observation: gripper.pos: expected the number of a motor"),
        (observation(1.0, **{"gripper.pos": None}), "gripper.pos: expected a number, an array or text, got NoneType"),
        (observation(1.0, -1), "timestep: expected 0 to 2**53, got -1"),
    ],
)
async def test_observations_that_do_not_fit_are_named(lerobot: Open, sent: bytes, text: str) -> None:
    async with lerobot() as (_, gateway), connected(gateway.address) as robot:
        await robot.begin(config())
        code, details = await refused(robot.send(sent))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert text in details
        await robot.send(observation(5.0))
        assert (await robot.actions())[0].action[0] == 5.0


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (
            {"pose": np.zeros((3, 6))},
            "UnusableAnswer: model 'act': the model's answer has no array 'actions', but pose",
        ),
        (np.zeros((2, 3, 6)), "the model's actions have the shape (2, 3, 6); expected (T, D)"),
        (np.zeros((0, 6)), "the model's actions have the shape (0, 6)"),
        (np.zeros((50, 20_000)), "lower actions_per_chunk"),
    ],
)
async def test_answers_that_a_robot_cannot_take_are_errors(lerobot: Open, result: Any, text: str) -> None:
    async with lerobot(lambda one: result) as (_, gateway), connected(gateway.address) as robot:
        await robot.begin()
        await robot.send(OBSERVATION)
        code, details = await refused(robot.actions())
    assert code is grpc.StatusCode.INTERNAL
    assert text in details


@pytest.mark.parametrize("shape", [(6,), (1, 6), (1, 4, 6)])
async def test_single_actions_and_batches_of_one_are_chunks(lerobot: Open, shape: tuple[int, ...]) -> None:
    async with lerobot(lambda one: np.ones(shape)) as (_, gateway), connected(gateway.address) as robot:
        await robot.begin()
        await robot.send(OBSERVATION)
        actions = await robot.actions()
    assert [one.action.tolist() for one in actions] == [[1.0] * 6] * (4 if shape == (1, 4, 6) else 1)


async def test_a_model_that_failed_is_an_error_and_the_held_observation_goes_next(lerobot: Open) -> None:
    gate = Gate()
    async with lerobot(gate) as (_, gateway), connected(gateway.address) as robot:
        await robot.begin()
        await robot.send(observation(-9.0))
        await gate.entered.wait()
        await robot.send(observation(2.0))
        gate.leave.set()
        code, text = await refused(robot.actions())
        assert code is grpc.StatusCode.INTERNAL
        assert text.startswith("ModelFailed: ValueError: no such cup")
        assert (await robot.actions())[0].action[0] == 2.0


async def test_a_model_that_does_not_answer_is_an_error_after_the_time_out(lerobot: Open) -> None:
    gate = Gate()
    async with lerobot(gate, wait_ms=10.0, timeout_ms=30.0) as (_, gateway), connected(gateway.address) as robot:
        await robot.begin()
        await robot.send(OBSERVATION)
        code, text = grpc.StatusCode.OK, ""
        while code is grpc.StatusCode.OK:
            try:
                assert await robot.actions() == []
            except grpc.aio.AioRpcError as error:
                code, text = error.code(), error.details() or ""
    assert code is grpc.StatusCode.ABORTED
    assert text == "TimeoutError: model 'act' gave no answer within 0.03 s (timeout_ms of the gateway)"


async def test_an_unknown_model_is_named(lerobot: Open) -> None:
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"act": JointPolicy()})) as server,
        LeRobotGateway(server, LeRobotConfig(model="atc", port=0)) as gateway,
        connected(gateway.address) as robot,
    ):
        await robot.begin()
        await robot.send(OBSERVATION)
        code, text = await refused(robot.actions())
    assert code is grpc.StatusCode.NOT_FOUND
    assert text == "UnknownModel: no model 'atc'; there is: act"


async def test_texts_of_internal_errors_stay_here(lerobot: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes) -> Any:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr("inferential.gateway.lerobot.service.read", broken)
    async with lerobot() as (_, gateway), connected(gateway.address) as robot:
        code, text = await refused(robot.begin())
    assert code is grpc.StatusCode.INTERNAL
    assert text == "internal error of the server; its log has more"


async def test_other_calls_are_not_there(lerobot: Open) -> None:
    async with lerobot() as (_, gateway), grpc.aio.insecure_channel(gateway.address) as channel:
        code, _ = await refused(channel.unary_unary(f"/{SERVICE}/Shutdown")(b""))
    assert code is grpc.StatusCode.UNIMPLEMENTED
