"""The time to live that a PING gives its sender."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from inferential.transport import heartbeats
from inferential.transport.zmq_transport import ZmqTransport
from inferential.zmtp import protocol as p


def ping(ttl_s: float) -> bytes:
    return p.command(p.PING + int(ttl_s * 10).to_bytes(2))


@pytest.fixture
async def robot(transport: ZmqTransport) -> Any:
    """A connected robot, as a plain socket, and how many connections the transport has."""
    transport.watch(lambda: transport.receive())
    host, _, port = transport.address.removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as opened:
        opened.sendall(p.greeting() + p.ready(b"DEALER", b"arm"))
        yield opened


def heard(robot: Any, data: bytes) -> None:
    """Until the server has sent this."""
    said = b""
    while data not in said:
        said += robot.recv(4096)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (sockets of another thread)
            await asyncio.sleep(0.005)


async def test_a_robot_that_is_not_heard_of_for_its_time_to_live_is_let_go(
    transport: ZmqTransport, robot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "GRACE_S", 0.02)
    await until(lambda: transport.sizes()["connections"] == 1)
    robot.sendall(ping(0.1))
    await until(lambda: transport.sizes()["connections"] == 0)


async def test_one_that_gives_no_time_or_takes_it_back_may_be_silent(
    transport: ZmqTransport, robot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "GRACE_S", 0.02)
    robot.sendall(ping(0.0))
    await until(lambda: transport.sizes()["connections"] == 1)
    robot.sendall(ping(0.1) + ping(0.0))
    await asyncio.sleep(0.05)
    await asyncio.sleep(0.05)
    await asyncio.sleep(0.05)
    assert transport.sizes()["connections"] == 1


async def test_one_whose_heartbeat_is_there_and_not_read_yet_is_not_let_go(
    transport: ZmqTransport, robot: Any, monkeypatch: pytest.MonkeyPatch, pass_time: Callable[[float], None]
) -> None:
    robot.sendall(ping(10.0))
    await asyncio.to_thread(heard, robot, b"\4PONG")
    with monkeypatch.context() as busy:  # as where a server was stopped and goes on, with a thousand robots to read
        busy.setattr(transport, "receive", lambda: None)
        robot.sendall(ping(10.0))
        for _ in range(4):
            pass_time(12.0)
            await asyncio.sleep(0.001)
        assert transport.sizes()["connections"] == 1
    await asyncio.to_thread(heard, robot, b"\4PONG")
    pass_time(12.0)
    await until(lambda: transport.sizes()["connections"] == 0)
