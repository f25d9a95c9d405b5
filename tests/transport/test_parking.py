"""Connections whose requests wait are read less, and of what they sent the newest comes first."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from inferential.config import TransportConfig
from inferential.transport import ZmqTransport, parking
from inferential.zmtp import protocol as p

READ_BYTES = 4096


def message(number: int, size: int = 3000) -> bytes:
    """An observation that fills most of a read."""
    return b"".join(bytes(part) for part in p.message([b"", b"%d" % number, bytes(size)], 10_000))


class Waiting:
    """Says which connections have requests that wait."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()
        self.requests = 1

    def __call__(self, number: int) -> int:
        return self.requests if number in self.numbers else 0


@pytest.fixture
def waits() -> Waiting:
    return Waiting()


@pytest.fixture
async def transport(waits: Waiting) -> AsyncIterator[ZmqTransport]:
    opened = ZmqTransport(TransportConfig(bind="tcp://127.0.0.1:0"))
    opened.watch(lambda: None, None, waits)
    yield opened
    await opened.close()


def call(transport: ZmqTransport, name: bytes, data: bytes = b"") -> socket.socket:
    host, _, port = transport.address.removeprefix("tcp://").rpartition(":")
    made = socket.create_connection((host, int(port)), timeout=60)
    made.sendall(p.greeting() + p.ready(b"DEALER", name) + data)
    return made


async def next_of(transport: ZmqTransport) -> tuple[int, int]:
    """The next message: its connection and its number."""
    async with asyncio.timeout(60):
        while (incoming := transport.receive()) is None:  # noqa: ASYNC110 (sockets of another thread)
            await asyncio.sleep(0.001)
    return incoming[4], int(bytes(incoming[1]))


async def test_a_connection_whose_requests_wait_is_left_unread_until_one_is_dispatched(
    transport: ZmqTransport, waits: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "PARKED_S", 1000.0)
    with call(transport, b"flood", message(0)) as flood, call(transport, b"good", message(0)) as good:
        numbers: Any = dict([await next_of(transport), await next_of(transport)])
        assert len(numbers) == 2
        waits.numbers.add(transport.connection_of(b"flood"))
        flood.sendall(b"".join(message(number) for number in range(1, 20)))
        seen = []
        async with asyncio.timeout(60):
            while not transport.parked:
                incoming = transport.receive()
                if incoming is not None:
                    seen.append(int(bytes(incoming[1])))
                await asyncio.sleep(0)
        assert len(seen) <= 4
        good.sendall(message(7))
        assert await next_of(transport) == (transport.connection_of(b"good"), 7)
        waits.numbers.clear()
        transport.resume(transport.connection_of(b"flood"))
        while seen[-1:] != [19]:
            seen.append((await next_of(transport))[1])
        assert seen == list(range(1, 20))


async def test_a_parked_connection_is_read_after_a_while_all_the_same(
    transport: ZmqTransport, waits: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "PARKED_S", 0.01)
    with call(transport, b"flood", message(0)) as flood:
        await next_of(transport)
        waits.numbers.add(transport.connection_of(b"flood"))
        flood.sendall(b"".join(message(number) for number in range(1, 20)))
        assert [(await next_of(transport))[1] for _ in range(19)] == list(range(1, 20))


async def test_a_server_that_sleeps_is_woken_for_a_parked_connection_after_a_while(
    waits: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "PARKED_S", 0.01)
    transport, woken = ZmqTransport(TransportConfig(bind="tcp://127.0.0.1:0")), asyncio.Event()
    transport.watch(woken.set, None, waits)
    with call(transport, b"flood", message(0)) as flood:
        await next_of(transport)
        waits.numbers.add(transport.connection_of(b"flood"))
        flood.sendall(b"".join(message(number) for number in range(1, 20)))
        while not transport.parked:
            transport.receive()
            await asyncio.sleep(0)
        woken.clear()
        async with asyncio.timeout(60):
            await woken.wait()
        assert transport.receive() is not None
    await transport.close()


async def test_of_messages_that_came_together_the_newest_is_first_and_none_is_lost(transport: ZmqTransport) -> None:
    with call(transport, b"robot", message(0, 10)) as robot:
        number, _ = await next_of(transport)
        transport.prefer_newest(number)
        robot.sendall(b"".join(message(at, 10) for at in range(1, 500)))
        seen: list[int] = []
        while 499 not in seen:
            _, newest = await next_of(transport)
            older, transport.overtaken = transport.overtaken, []
            assert all(end - start == 10 for _, _, start, end in older)
            seen += [*(int(each[0]) for each in older), newest]
        assert seen == list(range(1, 500))


async def test_a_connection_that_floods_is_parked_for_longer(
    transport: ZmqTransport, waits: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "PARKED_S", 0.0)
    monkeypatch.setattr(parking, "FLOOD_PARKED_S", 1000.0)
    with call(transport, b"flood", message(0, 10)) as flood, call(transport, b"good", message(0, 10)) as good:
        await next_of(transport)
        await next_of(transport)
        number = transport.connection_of(b"flood")
        transport.prefer_newest(number)
        waits.numbers.add(number)
        async with asyncio.timeout(60):
            while not transport.parked:
                flood.sendall(b"".join(message(at, 10) for at in range(100)))
                transport.receive()
                await asyncio.sleep(0)
        for number in range(5):
            good.sendall(message(number, 10))
            while await next_of(transport) != (transport.connection_of(b"good"), number):
                pass
            assert transport.parked == 1


async def test_a_connection_with_many_requests_that_wait_is_parked_for_longer(
    transport: ZmqTransport, waits: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "PARKED_S", 0.0)
    monkeypatch.setattr(parking, "FLOOD_PARKED_S", 1000.0)
    waits.requests = parking.FLOOD_MESSAGES
    with call(transport, b"flood", message(0, 10)) as flood:
        number, _ = await next_of(transport)
        waits.numbers.add(number)
        async with asyncio.timeout(60):
            while not transport.parked:
                flood.sendall(message(0, 10))
                transport.receive()
                await asyncio.sleep(0)
        flood.sendall(message(1, 10))
        assert all(transport.receive() is None for _ in range(20))


async def test_many_parked_connections_are_parked_for_longer(
    transport: ZmqTransport, waits: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "PARKED_S", 0.0)
    monkeypatch.setattr(parking, "RESUME_EACH_S", 1000.0)
    with call(transport, b"busy", message(0)) as busy, call(transport, b"good", message(0)) as good:
        await next_of(transport)
        await next_of(transport)
        waits.numbers.add(transport.connection_of(b"busy"))
        busy.sendall(b"".join(message(number) for number in range(1, 20)))
        async with asyncio.timeout(60):
            while not transport.parked:
                transport.receive()
                await asyncio.sleep(0)
        for number in range(5):
            good.sendall(message(number))
            while await next_of(transport) != (transport.connection_of(b"good"), number):
                pass
            assert transport.parked == 1


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if many connections were parked."""
    monkeypatch.setattr(parking, "DIRECT_FROM", 1)
    monkeypatch.setattr(parking, "PARKED_S", 1000.0)


async def arrived(transport: ZmqTransport, name: bytes) -> None:
    """Waits until what a robot has sent has arrived."""
    async with asyncio.timeout(60):
        while not transport.has_unread(name):  # noqa: ASYNC110 (a socket of another thread)
            await asyncio.sleep(0)


@asynccontextmanager
async def one_parked(transport: ZmqTransport, waits: Waiting) -> AsyncIterator[tuple[socket.socket, int]]:
    """A robot "busy" whose connection is parked, with one message of it unread, and its number; another is not."""
    with call(transport, b"busy", message(0, 10)) as busy, call(transport, b"good", message(0, 10)):
        await next_of(transport)
        await next_of(transport)
        number = transport.connection_of(b"busy")
        waits.numbers.add(number)
        while not transport.parked:
            busy.sendall(message(0, 10))
            await arrived(transport, b"busy")
            while transport.has_unread(b"busy") and not transport.parked:
                transport.receive()
        yield busy, number


async def test_for_a_call_that_may_begin_the_connection_is_read_first_whose_request_waits_longest(
    transport: ZmqTransport, waits: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "PARKED_S", 1000.0)
    monkeypatch.setattr(parking, "RENEW_AFTER_S", 0.0)
    async with one_parked(transport, waits) as (busy, number):
        with call(transport, b"later", message(0, 10)) as later:
            while await next_of(transport) != ((other := transport.connection_of(b"later")), 0):
                pass
            waits.numbers.add(other)
            while transport.parked < 2:
                later.sendall(message(0, 10))
                await arrived(transport, b"later")
                while transport.has_unread(b"later") and transport.parked < 2:
                    transport.receive()
            with monkeypatch.context() as many:  # the first is read and parked anew, and still waits longest
                many.setattr(parking, "DIRECT_FROM", 1)
                transport.resume(number)
                assert (await next_of(transport))[0] == number
                while transport.receive() is not None:
                    pass
            assert transport.parked == 2
            for robot, name in ((busy, b"busy"), (later, b"later")):
                robot.sendall(message(0, 10))
                await arrived(transport, name)
            assert transport.renew()
            read = [incoming[4] for incoming in iter(transport.receive, None)]
            assert list(dict.fromkeys(read)) == [number, other]


async def unparked(transport: ZmqTransport) -> None:
    """Receives until no connection is parked."""
    async with asyncio.timeout(60):
        while transport.receive() is not None or transport.parked:  # noqa: ASYNC110 (sockets of another thread)
            await asyncio.sleep(0)


@pytest.mark.usefixtures("many")
async def test_one_of_many_parked_connections_is_read_on_dispatch_and_parked_while_the_next_request_waits(
    transport: ZmqTransport, waits: Waiting
) -> None:
    async with one_parked(transport, waits) as (busy, number):
        for at in range(1, 4):
            busy.sendall(message(at, 10))
            await arrived(transport, b"busy")
            assert transport.receive() is None
            waits.numbers.clear()
            transport.resume(number)
            assert (await next_of(transport))[0] == number
            waits.numbers.add(number)
            while transport.receive() is not None:
                pass
            assert transport.parked == 1  # its next request waits


@pytest.mark.usefixtures("many")
async def test_one_of_many_parked_connections_without_a_request_is_read_by_what_the_poller_says_again(
    transport: ZmqTransport, waits: Waiting
) -> None:
    async with one_parked(transport, waits) as (busy, number):
        waits.numbers.clear()
        transport.resume(number)
        await unparked(transport)
        busy.sendall(message(7, 10))
        while (found := await next_of(transport)) != (number, 7):
            assert found == (number, 0)


@pytest.mark.usefixtures("many")
async def test_one_of_many_parked_connections_that_sent_half_a_message_is_read_when_the_rest_comes(
    transport: ZmqTransport, waits: Waiting
) -> None:
    async with one_parked(transport, waits) as (busy, number):
        whole = message(7, 10)
        busy.sendall(whole[:-3])
        waits.numbers.clear()
        transport.resume(number)
        await unparked(transport)
        busy.sendall(whole[-3:])
        assert await next_of(transport) == (number, 7)


@pytest.mark.usefixtures("many")
async def test_one_of_many_parked_connections_that_ends_is_noticed(transport: ZmqTransport, waits: Waiting) -> None:
    async with one_parked(transport, waits) as (busy, number):
        transport.resume(number)
        busy.close()
        async with asyncio.timeout(60):
            while transport.has_client(b"busy"):
                transport.receive()
                await asyncio.sleep(0)
        assert transport.parked == 0


async def test_of_a_parked_connection_it_is_not_known_that_all_was_read(
    transport: ZmqTransport, waits: Waiting
) -> None:
    async with one_parked(transport, waits) as (_, number):
        assert transport.is_behind(b"busy")
        assert not transport.is_behind(b"good")
        assert not transport.is_behind(b"other")
        waits.numbers.discard(number)
        transport.resume(number)
        await unparked(transport)
        while transport.receive() is not None:
            pass
        assert not transport.is_behind(b"busy")
