"""A robot that has given up a connection as nothing answered gets by the next one what it is owed; another life does
not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zmq
from bench.overload.wire import PAYLOAD, connect, message
from tests.server.conftest import Gate

from inferential import Connection, LocalDispatcher, Server
from inferential.client import transport
from inferential.config import InferentialConfig
from inferential.proto import FLOAT32, PROTOCOL_VERSION, Cancellation, Client, ModelResponse, Observation, Status
from inferential.server import executor

WAIT_MS = 60_000


class StandingStill:
    """A model that holds the server's event loop, as one does that never lets the interpreter's lock go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.goes_on = threading.Event()

    async def __call__(self, observation: dict[str, Any]) -> Any:
        self.entered.set()
        assert self.goes_on.wait(60)
        return observation


@contextmanager
def served(model: Any, **config: Any) -> Iterator[Server]:
    """A server on an event loop of its own, in a thread."""
    started, stop = threading.Event(), asyncio.Event()
    box: list[Any] = []

    async def run() -> None:
        server = Server(
            "tcp://127.0.0.1:0", config=InferentialConfig(**config), dispatcher=LocalDispatcher({"m": model})
        )
        async with server:
            box.extend([server, asyncio.get_running_loop()])
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert started.wait(60)
    try:
        yield box[0]
    finally:
        box[1].call_soon_threadsafe(stop.set)
        thread.join()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Robots give up after moments, and for the server a call of moments is long."""
    timeouts = transport.link_timeouts
    monkeypatch.setattr(
        transport,
        "link_timeouts",
        lambda first, most: replace(timeouts(first, most), heartbeat_s=0.05, silence_s=0.2),
    )
    monkeypatch.setattr(executor, "STOOD_S", 0.1)


def until(condition: Callable[[], Any]) -> None:
    for _ in range(6000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise TimeoutError


@pytest.mark.parametrize("asked_before", [1, 4])
def test_a_robot_that_connects_anew_gets_the_answers_of_a_server_that_stood_still(
    impatient: None, asked_before: int, caplog: pytest.LogCaptureFixture
) -> None:
    model = StandingStill()
    with served(model) as server, Connection(server.address, "arm") as arm:
        handle = arm.model("m", queue="all")
        asked = [handle.observe(n=np.array(0))]
        assert model.entered.wait(60)
        asked += [handle.observe(n=np.array(number)) for number in range(1, asked_before)]
        until(lambda: handle.get_result(10) is None and "no answer to heartbeats" in caplog.text)
        model.goes_on.set()
        results = [handle.get_result(WAIT_MS) for _ in asked]
        assert [(result.request_id, int(result["n"])) for result in results if result is not None] == [
            (request_id, number) for number, request_id in enumerate(asked)
        ]
        assert arm.stats.refused == 0


async def test_a_restarted_robot_gets_nothing_of_its_former_life(serve: Any, gate: Gate) -> None:
    async with serve({"m": gate}) as server:
        with Connection(server.address, "arm") as old:
            old.model("m").observe(n=np.array(1))
            await gate.wait_entered()
        await asyncio.to_thread(until, lambda: server.status().sizes["robots_away"] == 1)
        gate.let()
        await asyncio.to_thread(until, lambda: server.status().sizes["robots_away_bytes"] > 0)
        with Connection(server.address, "arm") as new:
            handle = new.model("m")
            gate.let()
            asked = await asyncio.to_thread(handle.observe, n=np.array(2))
            result = await asyncio.to_thread(handle.get_result, WAIT_MS)
            assert result is not None
            assert (result.request_id, int(result["n"])) == (asked, 2)
            assert (new.stats.unmatched, server.status().sizes["robots_away_bytes"]) == (0, 0)
        points = server.metrics.snapshot().metrics["send_errors"]
        assert [point["labels"]["error"] for point in points] == ["the client did not come back"]


async def test_what_never_arrived_is_refused_once_however_often_its_robot_asks_for_it(serve: Any) -> None:
    async with serve({"m": lambda observation: np.ones(1)}) as server:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        with context.socket(zmq.DEALER) as socket:
            socket.setsockopt(zmq.RCVTIMEO, WAIT_MS)
            socket.connect(server.address)
            for awaited in ([7, 8], [7, 8], [7, 9]):  # the first two as by a connection that ended meanwhile
                message = Cancellation(client=Client(id="arm"), protocol_version=2, awaited_ids=awaited)
                socket.send_multipart([b"", message.SerializeToString(), b""])
            for number in (7, 8, 9):
                frames = await asyncio.to_thread(socket.recv_multipart)
                response = ModelResponse.FromString(frames[1])
                assert (response.request_id, response.status) == (number, Status.REJECTED)
                assert "was lost before it arrived" in response.reason
        context.term()


class Fails:
    """A model whose first calls fail once they are let through."""

    def __init__(self, failures: int) -> None:
        self._failures = failures
        self._gate = Gate()
        self.wait_entered, self.let = self._gate.wait_entered, self._gate.let
        self.seen: list[str] = []

    def infer(self, observation: dict[str, Any]) -> Any:
        self.seen.append(str(observation["said"]))
        self._gate.infer(observation)
        if len(self.seen) <= self._failures:
            raise ValueError("not now")
        return np.ones(1)


class Robot:
    """A connection of a robot within a life."""

    def __init__(self, address: str, name: str, life: bytes) -> None:
        self.name = name
        self._socket, self._frames = connect(address, name.encode(), 60.0, life)

    def ask(self, number: int) -> None:
        """Sends an observation."""
        seen = Observation(model_id="m", request_id=number, protocol_version=PROTOCOL_VERSION)
        seen.client.id, seen.metadata["said"] = self.name, str(number)
        seen.tensors.add(key="state", dtype=FLOAT32, shape=[7], byte_length=len(PAYLOAD))
        self._socket.sendall(message(b"", seen.SerializeToString(), PAYLOAD))

    def hear(self) -> tuple[int, int]:
        """Waits for a response, and returns its request id and status."""
        while True:
            for found in self._frames.feed(self._socket.recv(1 << 16)):
                if isinstance(found, list):
                    response = ModelResponse.FromString(found[1])
                    return response.request_id, response.status

    def leave(self) -> None:
        """Closes the connection."""
        self._socket.close()


async def test_a_request_that_failed_is_not_tried_again_once_its_robot_has_left(serve: Any) -> None:
    model = Fails(1)
    async with serve({"m": model}, {"scheduling": {"max_retries": 3}}) as server:
        former = await asyncio.to_thread(Robot, server.address, "arm", b"")
        former.ask(1)
        await model.wait_entered()
        former.leave()
        await asyncio.to_thread(until, lambda: not server.status().sizes["connections"])
        other = await asyncio.to_thread(Robot, server.address, "leg", b"")
        model.let(4)
        for number in (2, 3, 4):
            other.ask(number)
            assert await asyncio.to_thread(other.hear) == (number, Status.OK)
        other.leave()
    assert model.seen == ["1", "2", "3", "4"]


async def test_a_request_that_failed_while_its_robot_was_away_is_tried_again_when_it_is_back(serve: Any) -> None:
    model, life = Fails(1), b"l" * 16
    async with serve({"m": model}, {"scheduling": {"max_retries": 3}}) as server:
        former = await asyncio.to_thread(Robot, server.address, "arm", life)
        former.ask(1)
        await model.wait_entered()
        former.leave()
        await asyncio.to_thread(until, lambda: server.status().sizes["robots_away"])
        model.let()
        await asyncio.to_thread(until, lambda: server.status().sizes["robots_away_bytes"])
        back = await asyncio.to_thread(Robot, server.address, "arm", life)
        await model.wait_entered()
        model.let()
        assert await asyncio.to_thread(back.hear) == (1, Status.OK)
        back.leave()
    assert model.seen == ["1", "1"]
