"""How long robots of other protocols live through: slow first calls, full queues, silence."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from tests.gateway.conftest import Open
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from inferential import InferenceRequest, Server
from inferential.proto.msgpack_numpy import pack, unpack


class Compiling:
    """Its first call takes as long as a test says."""

    def __init__(self) -> None:
        self.entered, self.leave = asyncio.Event(), asyncio.Event()

    async def infer(self, observation: dict[str, Any]) -> Any:
        self.entered.set()
        await self.leave.wait()
        return observation["state"]


def refusals(server: Server, count: int) -> asyncio.Event:
    """Set once that many requests have been refused."""
    happened = asyncio.Event()
    left = iter(range(count - 1))

    @server.on_request
    def note(request: InferenceRequest) -> None:
        if request.refusal is not None and next(left, None) is None:
            happened.set()

    return happened


async def asked(address: str, number: int) -> Any:
    async with connect(address, ping_interval=None) as websocket:
        await websocket.recv()
        await websocket.send(pack({"state": np.full(2, number)}))
        answer = await websocket.recv()
        return answer if isinstance(answer, str) else unpack(answer)["actions"].tolist()


async def test_sessions_live_while_a_model_compiles(openpi: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferential.gateway.base.RETRY_PAUSES_S", (0.001,))
    model = Compiling()
    async with openpi(model, {"scheduling": {"request_ttl_ms": 10.0}}) as (server, gateway):
        refused_often = refusals(server, 12)
        robots = [asyncio.create_task(asked(gateway.address, number)) for number in range(3)]
        await asyncio.wait_for(refused_often.wait(), 60)
        model.leave.set()
        assert await asyncio.wait_for(asyncio.gather(*robots), 60) == [[n, n] for n in range(3)]


async def test_robots_hear_soon_that_their_model_fails_with_every_request(
    openpi: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inferential.gateway.base.RETRY_PAUSES_S", (0.0, 0.0, 0.0))

    def fails(observation: dict[str, Any]) -> Any:
        raise ValueError("no cup")

    async with openpi(fails) as (server, gateway):
        attempts: list[InferenceRequest] = []
        server.on_request(attempts.append)
        while (answer := await asked(gateway.address, 1)) == "ModelFailed: ValueError: no cup":
            attempts.clear()
        assert "ModelFailing: model 'pi0' is failing" in answer
        assert len(attempts) == 4


async def test_robots_that_wait_for_a_model_that_compiles_do_not_count_as_gone(openpi: Open) -> None:
    model = Compiling()
    sections = {"response_tracking": {"disconnect_timeout_s": 0.01}, "scheduling": {"request_ttl_ms": 60_000.0}}
    async with openpi(model, sections) as (server, gateway):
        refused = refusals(server, 1)
        robots = [asyncio.create_task(asked(gateway.address, number)) for number in range(3)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(refused.wait(), 0.05)  # five times the silence after which a client is forgotten
        model.leave.set()
        assert await asyncio.wait_for(asyncio.gather(*robots), 60) == [[n, n] for n in range(3)]


async def test_an_openpi_robot_that_waited_too_long_gets_an_error(openpi: Open) -> None:
    async with openpi(Compiling(), timeout_ms=30.0) as (_, gateway):
        answer = await asked(gateway.address, 1)
    assert answer == "TimeoutError: model 'pi0' gave no answer within 0.03 s (timeout_ms of the gateway)"


async def test_a_robot_that_is_too_busy_to_answer_pings_keeps_its_session(
    openpi: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pings and their time-out at a thousandth of their real times, and a robot that does not read meanwhile."""

    def impatient(*args: Any, **options: Any) -> Any:
        for name in ("ping_interval", "ping_timeout"):
            real_s = options.get(name, 20.0)
            options[name] = None if real_s is None else real_s / 1000
        return serve(*args, **options)

    monkeypatch.setattr("inferential.gateway.openpi.serve", impatient)
    model = Compiling()
    model.leave.set()
    async with openpi(model) as (_, gateway), connect(gateway.address, ping_interval=None) as robot:
        await robot.recv()
        robot.transport.pause_reading()
        await asked(gateway.address, 1)
        await asyncio.sleep(0.05)  # two pings, and more than their time-out
        robot.transport.resume_reading()
        await robot.send(pack({"state": np.zeros(1)}))
        assert unpack(await robot.recv())["actions"].tolist() == [0.0]
