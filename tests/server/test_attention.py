"""Connections that send over and over what is refused on arrival are read less."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bench.overload import wire
from tests.server.conftest import Gate
from tests.transport.test_budget import HELLO

from inferential import Server
from inferential.proto import Cancellation, Client, ModelResponse, Observation, Status
from inferential.proto.messages import MAX_CANCELLED
from inferential.server import attention as attention_module
from inferential.server import pump
from inferential.server.attention import CHARGED_BURST, CHARGED_PER_S, Attention
from inferential.tracking import newcomers
from inferential.transport import parking
from inferential.zmtp import protocol as p


@pytest.fixture
def engine() -> Any:
    return SimpleNamespace(waits=lambda connection: 0)


def test_a_connection_is_read_at_once_as_long_as_little_of_it_is_refused(engine: Any, monkeypatch: Any) -> None:
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(attention_module, "time", clock)
    attention, now = Attention(engine), 0.0
    for step in range(1000):
        now = step / CHARGED_PER_S
        attention.charge(1, now)
        assert attention.waits(1) == 0


def test_one_that_floods_counts_as_that_though_one_request_of_it_waits(engine: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(attention_module, "time", SimpleNamespace(monotonic=lambda: 5.0))
    engine.waits = lambda connection: 1
    attention = Attention(engine)
    for _ in range(2 * CHARGED_BURST):
        attention.charge(1, 5.0)
    assert attention.waits(1) == CHARGED_BURST
    assert attention.waits(2) == 1


def test_one_that_floods_is_read_later_and_within_a_second_of_its_last_message_at_once(
    engine: Any, monkeypatch: Any
) -> None:
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(attention_module, "time", clock)
    attention, now = Attention(engine), 5.0
    for _ in range(10_000):
        attention.charge(1, now)
    assert attention.waits(1) > 0
    assert attention.waits(2) == 0
    now += 1.01
    assert attention.waits(1) == 0


def test_a_connection_of_which_nothing_was_refused_lately_is_not_looked_up(engine: Any, monkeypatch: Any) -> None:
    reads: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: reads.append(now) or now)
    monkeypatch.setattr(attention_module, "time", clock)
    attention, now = Attention(engine), 5.0
    attention.charge(1, now)
    now += 1.0
    assert [attention.waits(1) for _ in range(3)] == [0, 0, 0]
    assert len(reads) == 1


def test_clients_of_this_process_are_not_counted_and_what_ended_is_forgotten(engine: Any) -> None:
    attention = Attention(engine)
    for _ in range(2 * CHARGED_BURST):
        attention.charge(-1, 0.0)
        attention.charge(1, 0.0)
    attention.forget(1)
    assert (attention.waits(-1), attention.waits(1)) == (0, 0)


def observation(**fields: Any) -> bytes:
    given: dict[str, Any] = {"model_id": "m", "client": Client(id="robot"), "request_id": 1, "protocol_version": 2}
    return Observation(**{**given, **fields}).SerializeToString()


async def _until_parked(server: Server, flood: Callable[[], bytes], hello: bytes = HELLO) -> None:
    """Sends this over and over, until the connection is parked."""
    host, _, port = server.address.removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host, int(port))) as robot:
        robot.sendall(hello)
        robot.setblocking(False)
        unsent = b""
        async with asyncio.timeout(60):
            while not server.overview().sizes["connections_parked"]:
                unsent = unsent or flood()
                with contextlib.suppress(BlockingIOError):
                    unsent = unsent[robot.send(unsent) :]
                    robot.recv(1 << 20)
                await asyncio.sleep(0.005)


REFUSED = {
    "of a model that there is not": [b"", observation(model_id="n"), b""],
    "that makes no observation": [b"", b"\xff\xff", b""],
    "of other frames": [b"what", b"is this"],
    "of one that is not accepted": [b"", observation(), b""],
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_flood_of_what_is_refused_on_arrival_is_parked(kind: str, serve: Any) -> None:
    flood = b"".join(bytes(part) for part in p.message(REFUSED[kind], 1000)) * 400
    async with serve({"m": lambda observation: observation}, {"clients": {"accept_unknown": False}}) as server:
        await _until_parked(server, lambda: flood)


@pytest.mark.parametrize("field", ["request_ids", "awaited_ids"])
async def test_a_message_that_takes_back_or_asks_for_too_many_requests_is_refused(
    field: str, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    message = Cancellation(client=Client(id="robot"), protocol_version=2, **{field: range(1, MAX_CANCELLED + 2)})
    caplog.set_level("INFO")
    async with serve({"m": lambda observation: observation}) as server:
        host, _, port = server.address.removeprefix("tcp://").rpartition(":")
        with socket.create_connection((host, int(port))) as robot:
            robot.sendall(HELLO + b"".join(map(bytes, p.message([b"", message.SerializeToString(), b""], 1000))))
            async with asyncio.timeout(60):
                while not server.metrics.get_latest("observation_errors"):  # noqa: ASYNC110 (nothing tells of it)
                    await asyncio.sleep(0.001)
    assert "it takes back or asks for 4097 requests; at most 4096 in a message" in caplog.text


async def test_a_connection_that_uses_ever_new_client_ids_is_parked(serve: Any) -> None:
    async def model(observation: dict[str, Any]) -> dict[str, Any]:
        return observation

    numbers = itertools.count()

    def flood() -> bytes:
        made_up = (observation(client=Client(id=f"made-up-{number}")) for number in itertools.islice(numbers, 300))
        return b"".join(bytes(part) for one in made_up for part in p.message([b"", one, b""], 1000))

    async with serve({"m": model}) as server:
        await _until_parked(server, flood, p.greeting() + p.ready(b"DEALER", b""))


async def test_beside_a_flood_of_new_clients_one_first_request_of_a_connection_waits(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newcomers, "AGAIN_S", 0.0)

    def flood(address: str) -> str:
        robot, frames = wire.connect(address, b"", 60.0)
        with robot:
            for number in itertools.count(1):
                robot.sendall(wire.Observations(f"made-up-{number}", "m", "all").message(number, time.time_ns()))
                robot.settimeout(0.005)
                with contextlib.suppress(TimeoutError):
                    for found in frames.feed(robot.recv(1 << 16)):
                        response = ModelResponse.FromString(found[1]) if isinstance(found, list) else ModelResponse()
                        if response.status:
                            return f"{Status.Name(response.status)}: {response.reason}"
        raise AssertionError

    gate = Gate()
    async with serve({"m": gate}) as server:
        async with asyncio.timeout(60):
            assert await asyncio.to_thread(flood, server.address) == (
                "REJECTED: clients that ask once and never again flood the model"
            )
        gate.let(2)


NOTHING = {"heartbeats": p.command(p.PING + b"\0\0") * 400, "empty messages": b"\0\0" * 1500}


@pytest.mark.parametrize("kind", NOTHING)
async def test_a_flood_of_what_asks_for_nothing_is_parked(kind: str, serve: Any) -> None:
    async with serve({"m": lambda observation: observation}) as server:
        await _until_parked(server, lambda: NOTHING[kind])
        assert server.metrics.get_latest("observation_errors") is None


@pytest.mark.parametrize("robots", [1, 5])
async def test_what_is_served_when_a_call_ends_is_the_newest_that_robots_have_sent(
    serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch, robots: int
) -> None:
    monkeypatch.setattr(parking, "PARKED_S", 60.0)
    monkeypatch.setattr(parking, "RENEW_AFTER_S", 0.0)
    monkeypatch.setattr(pump, "RENEW_SLICE_S", 60.0)  # all is read, however busy the machine is
    gate = Gate()
    async with serve({"m": gate}) as server:
        busy = asyncio.create_task(connect(server, "busy").model("m").infer(60_000, number=np.array(-1)))
        await gate.wait_entered()
        models = [connect(server, f"waits-{number}").model("m") for number in range(robots)]
        sent = 0
        while server.overview().sizes["connections_parked"] < robots or sent < 20:
            sent += 1
            for model in models:
                await model.observe(number=np.array(sent))
            await asyncio.sleep(0.005)
        gate.let(1 + robots)
        assert (await busy)["number"] == -1
        answers = [await model.get_result(60_000) for model in models]
        gate.let(robots)  # of what is asked no more
        assert [int(answer["number"]) for answer in answers] == [sent] * robots
