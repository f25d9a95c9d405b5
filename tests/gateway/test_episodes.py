"""What begins an episode by each protocol, as a model that keeps state of its robots gets to know of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from tests.gateway.conftest import Open
from tests.gateway.lerobot_robot import connected, observation
from tests.gateway.test_gr00t import client
from websockets.asyncio.client import connect

from inferential.proto.msgpack_numpy import pack, unpack


class Steps:
    """Says how many steps of its episode it has seen, and notes the robots whose episodes have begun and ended."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def reset(self, session: Any) -> None:
        session.state = 0
        self.begun.append(session.client_id)

    def infer(self, observation: dict[str, Any], session: Any) -> Any:
        session.state += 1
        return {"actions": np.full((60, 6), float(session.state))}


async def test_a_connection_of_openpi_is_an_episode(openpi: Open) -> None:
    steps = []
    async with openpi(Steps()) as (_, gateway):
        for _ in range(2):
            async with connect(gateway.address) as robot:
                await robot.recv()
                for _ in range(2):
                    await robot.send(pack({"state": np.ones(2)}))
                    steps.append(unpack(await robot.recv())["actions"][0, 0])
    assert steps == [1, 2, 1, 2]


async def test_ready_of_lerobot_begins_an_episode(lerobot: Open) -> None:
    policy, steps = Steps(), []
    async with lerobot(policy) as (_, gateway), connected(gateway.address) as robot:
        for _ in range(2):
            await robot.begin()
            for step in (0, 49):
                await robot.send(observation(1.0, step))
                steps.append((await robot.actions())[0].action[0])
    assert steps == [1, 2, 1, 2]
    assert len(policy.begun) == 2


async def test_reset_of_gr00t_begins_an_episode(gr00t: Open) -> None:
    policy, steps = Steps(), []
    async with gr00t(policy) as (_, gateway), client(gateway) as robot:
        for _ in range(2):
            for _ in range(2):
                answer = await robot.call(data={"state.arm": np.ones(2)})
                steps.append(answer["actions"][0, 0])
            assert await robot.call("reset") == {}
    assert steps == [1, 2, 1, 2]
    assert len(policy.begun) == 2
