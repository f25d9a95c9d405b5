"""Refusals that leave with others, or with an answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from inferential.config import TransportConfig
from inferential.transport import ZmqTransport, corking
from inferential.zmtp import protocol as p
from inferential.zmtp.reader import Reader

BIG = bytes(100_000)


@pytest.fixture
async def transport() -> AsyncIterator[ZmqTransport]:
    opened = ZmqTransport(TransportConfig(bind="tcp://127.0.0.1:0"))
    opened.watch(lambda: None)
    yield opened
    await opened.close()


@pytest.fixture
async def robot(transport: ZmqTransport) -> AsyncIterator[socket.socket]:
    host, _, port = transport.address.removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as made:
        made.sendall(p.greeting() + p.ready(b"DEALER", b"arm"))
        async with asyncio.timeout(60):
            while not transport.has_client(b"arm"):
                transport.receive()
                await asyncio.sleep(0)
        made.recv(4096)  # greeting and READY
        yield made


async def heard(robot: socket.socket, count: int) -> list[bytes]:
    """The envelopes of the next messages, in their order."""
    reader, found = Reader(None, 3), []
    robot.setblocking(False)
    async with asyncio.timeout(60):
        while len(found) < count:
            if reader.space is None:
                reader.feed(await asyncio.get_running_loop().sock_recv(robot, 4096))
            else:
                reader.filled(await asyncio.get_running_loop().sock_recv_into(robot, reader.space))
            while isinstance(message := reader.next(), list):
                found.append(bytes(message[1]))
    return found


@pytest.mark.parametrize("payload", [b"small", BIG])
async def test_late_refusals_go_before_the_next_answer(
    transport: ZmqTransport, robot: socket.socket, payload: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corking, "LATE_S", 1000.0)
    number = transport.connection_of(b"arm")
    transport.cork(number, [b"1", b"2"], late=True)
    transport.cork(number, [b"3"], late=True)
    transport.post(number, b"4", payload)
    assert await heard(robot, 4) == [b"1", b"2", b"3", b"4"]


async def test_late_refusals_go_by_themselves_after_a_moment(transport: ZmqTransport, robot: socket.socket) -> None:
    transport.cork(transport.connection_of(b"arm"), [b"1", b"2"], late=True)
    assert await heard(robot, 2) == [b"1", b"2"]


async def test_late_refusals_go_with_one_that_is_not(
    transport: ZmqTransport, robot: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corking, "LATE_S", 1000.0)
    number = transport.connection_of(b"arm")
    transport.cork(number, [b"1"], late=True)
    transport.cork(number, [b"2"])
    assert await heard(robot, 2) == [b"1", b"2"]


async def test_what_waits_is_sent_before_the_end(
    transport: ZmqTransport, robot: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corking, "LATE_S", 1000.0)
    transport.cork(transport.connection_of(b"arm"), [b"1"], late=True)
    await transport.close()
    assert await heard(robot, 1) == [b"1"]


async def test_refusals_of_many_connections_wait_longer_for_the_answers_that_they_go_with(
    transport: ZmqTransport, robot: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corking, "LATE_S", 0.001)
    monkeypatch.setattr(corking, "LATE_EACH_S", 1000.0)
    monkeypatch.setattr(corking, "LATEST_S", 1000.0)
    number = transport.connection_of(b"arm")
    transport.cork(number, [b"1"], late=True)
    await asyncio.sleep(0.01)
    transport.post(number, b"2", b"")
    assert await heard(robot, 2) == [b"1", b"2"]


async def test_refusals_of_many_connections_do_not_wait_for_ever(
    transport: ZmqTransport, robot: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corking, "LATE_EACH_S", 1000.0)
    monkeypatch.setattr(corking, "LATEST_S", 0.02)
    transport.cork(transport.connection_of(b"arm"), [b"1"], late=True)
    assert await heard(robot, 1) == [b"1"]


async def test_a_connection_with_very_many_refusals_gets_them_at_once(
    transport: ZmqTransport, robot: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corking, "LATE_S", 1000.0)
    number = transport.connection_of(b"arm")
    sent = [b"%d" % at for at in range(100)]
    for envelope in sent:
        transport.cork(number, [envelope], late=True)
    assert await heard(robot, len(sent)) == sent
