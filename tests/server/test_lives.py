"""An answer belongs to the connection that asked, and the requests of one that has ended end with it."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import zmq
from tests.server.conftest import Gate
from tests.transport.test_budget import HELLO

from inferential import Server
from inferential.proto import QUEUE_ALL, Client, ModelResponse, Observation, Status
from inferential.transport import acceptance
from inferential.zmtp import protocol as p

_numbers = itertools.count(1)


class Robot:
    """A DEALER that asks for the model m."""

    def __init__(self, opened: zmq.Socket[bytes], name: str) -> None:
        self._socket = opened
        self._name = name

    def ask(self) -> int:
        """Sends an observation, and returns its number."""
        number = next(_numbers)
        message = Observation(
            client=Client(id=self._name), model_id="m", request_id=number, protocol_version=2, queue=QUEUE_ALL
        )
        self._socket.send_multipart([b"", message.SerializeToString(), b""])
        return number

    async def hear(self) -> ModelResponse:
        """The next response."""
        frames = await asyncio.to_thread(self._socket.recv_multipart)
        return ModelResponse.FromString(frames[1])

    def vanish(self) -> None:
        """Ends the connection at once."""
        self._socket.close(linger=0)


@pytest.fixture
def robot() -> Callable[..., Any]:
    """`with robot(server, "arm") as arm:`"""

    @contextmanager
    def connected(server: Server, name: str, identity: bytes | None = b"") -> Iterator[Robot]:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        opened = context.socket(zmq.DEALER)
        if identity is not None:
            opened.setsockopt(zmq.IDENTITY, identity or name.encode())
        opened.setsockopt(zmq.LINGER, 0)
        opened.setsockopt(zmq.RCVTIMEO, 10_000)
        opened.connect(server.address)
        try:
            yield Robot(opened, name)
        finally:
            opened.close()
            context.term()

    return connected


def dial(server: Server) -> socket.socket:
    """A connection that says nothing by itself."""
    host, _, port = server.address.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)))


def asking(name: str) -> bytes:
    """A message that asks for the model m."""
    observation = Observation(client=Client(id=name), model_id="m", queue=QUEUE_ALL).SerializeToString()
    return b"".join(bytes(part) for part in p.message([b"", observation, b""], 0))


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (sockets of another thread)
            await asyncio.sleep(0.001)


def counted(server: Server, name: str, **labels: str) -> int:
    """How many points of a metric have these labels."""
    points = server.metrics.snapshot().metrics.get(name, [])
    return sum(labels.items() <= point["labels"].items() for point in points)


async def test_a_robot_that_restarts_gets_no_answer_of_its_old_life_and_does_not_wait_for_it(
    serve: Any, robot: Any, gate: Gate
) -> None:
    async with serve({"m": gate}) as server:
        with robot(server, "arm") as old:
            for _ in range(9):
                old.ask()
            await gate.wait_entered()
            await until(lambda: server.status().sizes["queue_requests"] == 8)
            old.vanish()
            await until(lambda: server.status().sizes["queue_requests"] == 0)
        assert counted(server, "requests_rejected", error="client_gone") == 8
        with robot(server, "arm") as new:
            number = new.ask()
            await until(lambda: server.status().sizes["queue_requests"] == 1)
            gate.let(2)
            response = await new.hear()
            assert (response.request_id, response.status) == (number, Status.OK)
        assert gate.calls == 2  # what ran already, and the new one
        assert counted(server, "send_errors", kind="result") == 1


async def test_a_robot_without_an_identity_that_reconnects_is_served_at_once(serve: Any, robot: Any) -> None:
    async with serve({"m": lambda observation: np.ones(1)}) as server:
        for _ in range(3):
            with robot(server, "arm", None) as arm:
                number = arm.ask()
                response = await arm.hear()
                assert (response.request_id, response.status) == (number, Status.OK)
            await until(lambda: not server.status().sizes["connections"])


async def test_of_two_live_robots_with_one_id_the_second_is_refused_with_the_reason(serve: Any, robot: Any) -> None:
    async with serve({"m": lambda observation: np.ones(1)}) as server:
        with robot(server, "arm") as first:
            first.ask()
            assert (await first.hear()).status == Status.OK
            with robot(server, "arm") as second:
                second.ask()
                response = await second.hear()
                assert response.status == Status.REJECTED
                assert "'arm' is in use by another robot at 127.0.0.1:" in response.reason
                first.ask()
                assert (await first.hear()).status == Status.OK
            assert counted(server, "requests_rejected", error="id_in_use") == 1


async def test_a_robot_that_restarts_takes_over_from_a_connection_that_answers_no_heartbeat(
    serve: Any, robot: Any
) -> None:
    async with serve({"m": lambda observation: np.ones(1)}) as server:
        with dial(server) as dead:  # like that of a robot which lost its power
            dead.sendall(HELLO)
            await until(lambda: server.status().sizes["connections"])
            with robot(server, "robot") as restarted:
                number = restarted.ask()
                response = await restarted.hear()
                assert (response.request_id, response.status) == (number, Status.OK)


async def test_a_robot_without_an_identity_takes_its_id_over_from_a_connection_that_answers_no_heartbeat(
    serve: Any, robot: Any
) -> None:
    kept = {"response_tracking": {"disconnect_timeout_s": 1000.0}}  # it is not by that that it ends
    async with serve({"m": lambda observation: np.ones(1)}, kept) as server:
        with dial(server) as dead:
            dead.sendall(p.greeting() + p.ready(b"DEALER", b"") + asking("arm"))
            await until(lambda: server.connected_robots)
            with robot(server, "arm", None) as restarted:
                restarted.ask()
                response = await restarted.hear()
                assert "in use by another connection" in response.reason
                async with asyncio.timeout(60):
                    while response.status != Status.OK:
                        restarted.ask()
                        response = await restarted.hear()


@pytest.mark.parametrize("identity", [b"", b"arm"])
async def test_of_two_live_robots_the_first_keeps_its_id_though_its_zmtp_has_no_heartbeat(
    identity: bytes, serve: Any, robot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance, "SPEAKS_S", 0.3)
    async with serve({"m": lambda observation: np.ones(1)}) as server:
        with dial(server) as first:
            greeting = p.greeting()[:11] + b"\0" + p.greeting()[12:]  # of ZMTP 3.0, like libzmq before 4.2
            first.sendall(greeting + p.ready(b"DEALER", identity) + asking("arm"))
            await until(lambda: server.connected_robots)

            async def speak() -> None:
                while True:
                    first.sendall(asking("arm"))
                    await asyncio.sleep(0.01)

            speaking = asyncio.create_task(speak())
            with robot(server, "arm", identity or None) as second:
                for _ in range(3):
                    second.ask()
                    assert "in use by another" in (await second.hear()).reason
                    await asyncio.sleep(0.3)
            speaking.cancel()


@pytest.mark.parametrize("leaves", [True, False])
async def test_who_inherits_an_id_is_asked_as_well_whether_it_lives(leaves: bool, serve: Any, robot: Any) -> None:
    async with serve({"m": lambda observation: np.ones(1)}) as server:
        with dial(server) as dead, dial(server) as dead_heir:
            dead.sendall(HELLO)
            await until(lambda: server.status().sizes["connections"])
            with robot(server, "robot") as restarted:
                restarted.ask()
                await until(lambda: server.status().sizes["connections_rival"] == 1)
                dead_heir.sendall(HELLO)
                await until(lambda: server.status().sizes["connections_rival"] == 2)
                if leaves:
                    dead.close()
                assert (await restarted.hear()).status == Status.OK


async def test_a_client_in_this_process_that_closes_leaves_nothing_waiting(serve: Any, gate: Gate) -> None:
    async with serve({"m": gate}) as server:
        arm = server.connect("arm")
        model = arm.model("m", queue="all")
        for _ in range(4):
            await model.observe(state=np.ones(1))
        await gate.wait_entered()
        arm.close()
        assert server.status().sizes["queue_requests"] == 0
        assert counted(server, "requests_rejected", error="client_gone") == 3
        gate.let()
