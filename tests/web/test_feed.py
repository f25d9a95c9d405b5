"""The live page's events: all clients, some at a time, so that robots get their turns between them."""

from __future__ import annotations

import json

import numpy as np
from tests.turns import Turns

from inferential import LocalDispatcher, Server
from inferential.config import InferentialConfig
from inferential.web.feed import AT_ONCE, Feed


async def test_an_event_has_every_client_and_leaves_the_loop_to_robots_between_them() -> None:
    config = InferentialConfig(server={"drain_timeout_s": 0.0})
    dispatcher = LocalDispatcher({"m": lambda observation: observation["state"]})
    async with Server("tcp://127.0.0.1:0", config=config, dispatcher=dispatcher) as server:
        count = 3 * AT_ONCE
        robots = [server.connect(f"robot-{number}") for number in range(count)]
        for robot in robots:
            assert await robot.model("m").infer(10_000, state=np.ones(1)) is not None
        feed = Feed(server)
        async with Turns() as turns:
            event = json.loads(await feed.next_event())
        assert turns.count >= 3
        whole = json.loads(await feed.now())
        assert event.keys() == whole.keys()
        shown = [client["client_id"] for client in event["clients"]]
        assert shown == [client["client_id"] for client in whole["clients"]]
        assert len(shown) == count
        assert whole["clients"][0].keys() == event["clients"][0].keys()
        for robot in robots:
            robot.close()


async def test_readiness_asks_no_client() -> None:
    dispatcher = LocalDispatcher({"m": lambda observation: observation["state"]})
    async with Server("tcp://127.0.0.1:0", dispatcher=dispatcher) as server:
        server.status = lambda: 1 / 0  # type: ignore[assignment,method-assign,return-value]
        assert server.readiness() == []


async def test_an_event_has_the_calls_since_the_one_before_and_the_first_has_all() -> None:
    dispatcher = LocalDispatcher({"m": lambda observation: observation["state"]})
    async with Server("tcp://127.0.0.1:0", dispatcher=dispatcher) as server:
        robot = server.connect("arm")
        feed = Feed(server)

        async def calls(event: str) -> list[int]:
            return [call["number"] for call in json.loads(event)["batches"]]

        for number in (1, 2, 3):
            assert await robot.model("m").infer(10_000, state=np.ones(1)) is not None
            assert await calls(await feed.next_event()) == [number]
        assert await calls(await feed.next_event()) == []
        assert await calls(await feed.now()) == [1, 2, 3]
        states = server.model_states()
        assert (states["m"]["state"], states.keys()) == (server.overview().models[0].state, {"m"})
        robot.close()
