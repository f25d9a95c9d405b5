"""A robot on a link that carries less than it observes: the newest observation waits with the robot."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from inferential import AsyncConnection, Connection, LocalDispatcher, Server
from inferential.client import transport
from inferential.client.backoff import LinkTimeouts
from inferential.sim.network import EmulatedNetwork, NetworkProfile

IMAGE = np.zeros(150_000, np.uint8)
LAST = 19


class Seen:
    """A model that notes the number of each observation."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.last = threading.Event()

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        self.numbers.append(int(observation["n"][0]))
        if self.numbers[-1] == LAST:
            self.last.set()
        return {"actions": np.zeros(1, np.float32), "n": observation["n"]}


@asynccontextmanager
async def serving(seen: Seen) -> AsyncIterator[EmulatedNetwork]:
    """A server behind a network."""
    dispatcher = LocalDispatcher({"policy": seen})
    async with (
        Server("tcp://127.0.0.1:*", dispatcher=dispatcher) as server,
        EmulatedNetwork(server.address, NetworkProfile()) as network,
    ):
        yield network


def number(n: int) -> np.ndarray[Any, Any]:
    return np.array([n])


@pytest.mark.parametrize("queue", ["latest", "all"])
async def test_of_what_a_network_does_not_carry_the_newest_is_sent_when_it_does(queue: Any) -> None:
    seen = Seen()
    async with serving(seen) as network, AsyncConnection(network.address) as connection:
        model = connection.model("policy", queue=queue)
        assert await model.infer(timeout_ms=60_000, n=number(-1)) is not None
        network.cut()
        for n in range(LAST + 1):
            await model.observe(image=IMAGE, n=number(n))
        await asyncio.sleep(0.02)
        network.mend()
        while (result := await model.get_result(timeout_ms=60_000)) is not None and result["n"][0] != LAST:
            pass
        assert result is not None
        stats = connection.stats
        assert stats.link_round_trip_ms is not None
        if queue == "latest":
            assert seen.numbers == [-1, 0, LAST]
            assert stats.replaced_unsent == stats.superseded == LAST - 1
        else:
            assert seen.numbers == list(range(-1, LAST + 1))


async def test_small_observations_wait_with_the_robot_once_a_heartbeat_has_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "link_timeouts", lambda *_: LinkTimeouts(0.1, 1.0, heartbeat_s=0.03, silence_s=60.0))
    seen = Seen()
    async with serving(seen) as network, AsyncConnection(network.address) as connection:
        model = connection.model("policy")
        assert await model.infer(timeout_ms=60_000, n=number(-1)) is not None
        network.cut()
        sent = 0
        while not connection.sizes().unsent and sent < 2000:
            await model.observe(n=number(-2))
            sent += 1
            await asyncio.sleep(0.005)
        for n in range(LAST + 1):
            await model.observe(n=number(n))
        network.mend()
        assert await asyncio.to_thread(seen.last.wait, 60)
        assert connection.stats.replaced_unsent == LAST + 1
        assert not {*range(LAST)} & {*seen.numbers}
        assert sent < 2000


async def test_a_robot_that_sleeps_between_its_steps_sends_as_soon_as_the_link_is_free() -> None:
    seen = Seen()
    connected, cut, observed = threading.Event(), threading.Event(), threading.Event()

    def robot(address: str) -> None:
        with Connection(address) as connection:
            model = connection.model("policy")
            assert model.infer(timeout_ms=60_000, n=number(-1)) is not None
            connected.set()
            assert cut.wait(60)
            for n in range(LAST + 1):
                model.observe(image=IMAGE, n=number(n))
            observed.set()
            assert seen.last.wait(60)  # no method of the connection is called meanwhile

    async with serving(seen) as network:
        running = asyncio.create_task(asyncio.to_thread(robot, network.address))
        assert await asyncio.to_thread(connected.wait, 60)
        network.cut()
        cut.set()
        assert await asyncio.to_thread(observed.wait, 60)
        network.mend()
        await running
    assert seen.numbers == [-1, 0, LAST]
