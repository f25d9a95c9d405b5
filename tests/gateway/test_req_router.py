"""The ROUTER for REQ sockets: what peers do wrong ends their own connection, and is bounded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import zmq
import zmq.asyncio

from inferential.gateway import receiving, req_router
from inferential.gateway.req_router import ReqPeer, ReqRouter
from inferential.transport import descriptors
from inferential.transport.listening import listen
from inferential.zmtp import protocol as p

LARGEST = 200_000
HELLO = p.greeting() + p.ready(b"REQ", b"")
OPEN = HELLO + b"\1\0"  # and an empty frame
Call = Callable[..., Any]


@pytest.fixture
async def router(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ReqRouter]:
    """Echoes."""
    monkeypatch.setattr(receiving, "MAX_BYTES", LARGEST)

    def echo(peer: ReqPeer, message: bytes) -> None:
        opened.reply(peer, message)

    opened = ReqRouter(listen("tcp://127.0.0.1:0"), LARGEST, echo)
    yield opened
    await opened.close()


async def call(router: ReqRouter, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(router.address.rpartition(":")[2]))
    writer.write(data)
    return reader, writer


async def ended(reader: asyncio.StreamReader) -> None:
    """Until the other end has closed the connection."""
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionResetError):
            while await reader.read(10_000):
                pass


def frame(size: int, sent: int, more: int = 0) -> bytes:
    """A large frame, or its beginning."""
    return bytes((p.LONG | more,)) + size.to_bytes(8) + bytes(sent)


@pytest.mark.parametrize("size", [0, 10, 300, LARGEST])
async def test_a_req_socket_is_answered_again_and_again(router: ReqRouter, size: int) -> None:
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.REQ)
    socket.connect(router.address)
    for _ in range(3):
        await socket.send(bytes(size))
        assert len(await asyncio.wait_for(socket.recv(), 60)) == size
    socket.close(linger=0)
    context.term()


WRONG = {
    "a frame too many": OPEN + b"\1\1a" + b"\0\1b",
    "a message without an end": OPEN + b"\1\1a" * 100,
    "a large message without an end": OPEN + frame(LARGEST, LARGEST, p.MORE) + frame(LARGEST, 50_000, p.MORE),
    "no empty frame": HELLO + b"\1\1a" + b"\0\1b",
    "a frame that is too large": OPEN + frame(LARGEST + 1, 10),
    "much before the handshake": p.greeting() + frame(5000, 5000),
    "another protocol": b"GET / HTTP/1.1\r\n\r\n" + bytes(100),
    "another socket": p.greeting() + p.ready(b"PUB", b""),
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_no_request_ends_its_connection(router: ReqRouter, name: str, caplog: Any) -> None:
    caplog.set_level("INFO")
    reader, writer = await call(router, WRONG[name])
    await ended(reader)
    writer.close()
    assert not len(router)
    assert "127.0.0.1:" in caplog.messages[-1]


@pytest.mark.parametrize(("said", "limit"), [(b"", "HANDSHAKE_S"), (OPEN + frame(100_000, 50_000), "RECEIVE_S")])
async def test_what_does_not_come_on_ends_its_connection(
    router: ReqRouter, said: bytes, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(req_router, limit, 0.05)
    reader, writer = await call(router, said)
    await ended(reader)
    writer.close()


async def test_the_largest_half_message_gives_way_to_others(router: ReqRouter) -> None:
    large, other = await call(router, OPEN + frame(150_000, 10_000))
    reader, writer = await call(router, OPEN + frame(100_000, 50_000))
    await ended(large)
    writer.write(bytes(50_000))
    async with asyncio.timeout(60):
        await reader.readexactly(100_000)
    for one in (other, writer):
        one.close()


async def test_a_peer_that_does_not_read_replies_ends(router: ReqRouter) -> None:
    _, writer = await call(router, HELLO)
    with contextlib.suppress(ConnectionError):
        for _ in range(200):
            writer.write(b"\1\0" + frame(LARGEST, LARGEST))
            await writer.drain()
    async with asyncio.timeout(60):
        while len(router):  # noqa: ASYNC110 (no event is set)
            await asyncio.sleep(0.001)
    writer.close()


async def test_while_it_is_paused_nothing_is_received(router: ReqRouter) -> None:
    reader, writer = await call(router, OPEN + b"\0\1a")
    await reader.readuntil(b"\0\1a")
    router.pause()
    writer.write(b"\1\0\0\1b")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(10), 0.05)
    router.resume()
    async with asyncio.timeout(60):
        await reader.readuntil(b"\0\1b")
    writer.close()


async def test_who_connects_while_it_is_paused_does_not_wake_the_event_loop(
    router: ReqRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, watched = asyncio.get_running_loop(), []
    add_reader = loop.add_reader
    monkeypatch.setattr(loop, "add_reader", lambda fd, *call: watched.append(fd) or add_reader(fd, *call))
    router.pause()
    reader, writer = await call(router, OPEN + b"\0\1a")
    async with asyncio.timeout(60):
        while not len(router):  # noqa: ASYNC110 (no event is set)
            await asyncio.sleep(0)
    assert watched == []
    router.resume()
    async with asyncio.timeout(60):
        await reader.readuntil(b"\0\1a")
    writer.close()


async def test_what_comes_while_it_is_paused_is_not_late(router: ReqRouter, pass_time: Callable[[float], None]) -> None:
    reader, writer = await call(router, OPEN + frame(100_000, 50_000))
    async with asyncio.timeout(60):
        while not router.arriving:  # noqa: ASYNC110
            await asyncio.sleep(0)
    router.pause()
    async with asyncio.timeout(60):
        await reader.readuntil(b"READY")  # may wait for the answer that was to share its packet
    writer.write(bytes(50_000))
    pass_time(receiving.RECEIVE_S + 1.0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readexactly(100_000), 0.1)
    router.resume()
    async with asyncio.timeout(60):
        await reader.readexactly(100_000)
    writer.close()


async def test_few_descriptors_are_left_to_robots(router: ReqRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "SHARE", 0.0)
    reader, writer = await call(router, b"")
    await ended(reader)
    writer.close()
