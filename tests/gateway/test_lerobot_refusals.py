"""What LeRobot's robots send that cannot be served, and answers that they cannot take."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import grpc
import numpy as np
import pytest
from tests.gateway.conftest import JointPolicy, Open
from tests.gateway.lerobot_robot import CONFIG, OBSERVATION, Gate, config, connected, dumped, observation, refused

from inferential import LocalDispatcher, Server
from inferential.config.gateways import LeRobotConfig
from inferential.gateway.lerobot import LeRobotGateway
from inferential.gateway.lerobot.messages import SERVICE, Empty, Observation

STATE = [28.0, 29.0, 30.0, 31.0, 32.0, 33.0]


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
    async with lerobot(sections=sections) as (server, gateway), connected(gateway.address) as robot:
        await robot.begin(config(**small))
        code, details = await refused(robot.stream(parts))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert text in details
        stats = server.metrics.get_stats("observation_errors", {"error": "gateway"})
        assert stats is not None
        assert stats.count == 1
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


async def test_one_robot_sends_one_observation_at_a_time(lerobot: Open) -> None:
    async with lerobot() as (_, gateway), connected(gateway.address) as robot:
        await robot.begin()
        end = asyncio.Event()

        async def slow() -> Any:
            yield Observation(transfer_state=1, data=OBSERVATION[:99])
            await end.wait()
            yield Observation(transfer_state=3, data=OBSERVATION[99:])

        sending = asyncio.ensure_future(robot.observe(slow()))
        await robot.instruct(CONFIG)  # calls of one connection arrive in order
        code, text = await refused(robot.send(OBSERVATION))
        end.set()
        await sending
        assert len(await robot.actions()) == 50
    assert (code, text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "this robot is sending another observation")


async def test_a_message_over_4_mb_is_refused(lerobot: Open) -> None:
    async with lerobot() as (_, gateway), connected(gateway.address) as robot:
        await robot.begin()
        code, _ = await refused(robot.stream([(3, b"x" * (4 * 1024 * 1024 + 100))]))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        await robot.send(OBSERVATION)
        assert len(await robot.actions()) == 50


def vectors_of_one_list(count: int) -> dict[str, Any]:
    """So many vectors of so many motors: a pickle has their names once, as the list is one."""
    feature = {"dtype": "float32", "shape": (count,), "names": ["shoulder_pan.pos"] * count}
    return {f"observation.{number}": feature for number in range(count)}


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
        (
            config(lerobot_features=vectors_of_one_list(90)),
            "lerobot_features: expected the names of at most 4096 motors",
        ),
    ],
)
async def test_instructions_that_cannot_be_followed_are_named(lerobot: Open, instructions: bytes, text: str) -> None:
    async with lerobot() as (_, gateway), connected(gateway.address) as robot:
        await robot.ready(Empty())
        code, details = await refused(robot.instruct(instructions))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text in details


@pytest.mark.parametrize("field", ["policy_type", "pretrained_name_or_path"])
async def test_a_name_that_is_no_text_is_not_written_out(lerobot: Open, field: str) -> None:
    nested: list[Any] = []
    for _ in range(100):
        nested = [nested, nested]  # 2**100 brackets as text
    async with lerobot() as (_, gateway), connected(gateway.address) as robot:
        await robot.begin(config(**{field: nested}))
        await robot.send(observation(5.0))
        assert (await robot.actions())[0].action[0] == 5.0


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (config(), "expected a TimedObservation, got RemotePolicyConfig"),
        (observation(1.0, front=3.0), "observation: front: expected the image of a camera"),
        (observation(1.0, **{"gripper.pos": "open"}), "observation: gripper.pos: expected the number of a motor"),
        (observation(1.0, **{"gripper.pos": None}), "gripper.pos: expected a number, an array or text, got NoneType"),
        (
            observation(1.0, **{"gripper.pos": 10**400}),
            "gripper.pos: expected the number of a motor, got one beyond 1e308",
        ),
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


def test_without_grpcio_the_error_names_the_extra() -> None:
    script = "import sys; sys.modules['grpc'] = None; import inferential.gateway.lerobot"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "the LeRobot gateway needs grpcio: pip install 'inferential[lerobot]'" in done.stderr
