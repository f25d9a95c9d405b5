"""What connections hold is bounded in bytes: before the handshake, half-received frames, answers that are not read."""

from __future__ import annotations

import asyncio
import errno
import socket
import weakref
from functools import partial
from typing import Any

import numpy as np
import pytest
from tests.uncollected import without_collections

from inferential.config import TransportConfig
from inferential.transport import ZmqTransport, acceptance, router, stalls
from inferential.transport.budget import ByteBudget
from inferential.zmtp import Stream
from inferential.zmtp import protocol as p

LIMIT = 1_000_000
HELLO = p.greeting() + p.ready(b"DEALER", b"robot")


def half(size: int, sent: int) -> bytes:
    """The beginning of a message with a payload of this size."""
    return b"\1\0\1\1e" + b"\2" + size.to_bytes(8) + bytes(sent)


@pytest.fixture
async def transport() -> Any:
    opened = ZmqTransport(TransportConfig(bind="tcp://127.0.0.1:0"), max_message_bytes=LIMIT)
    opened.watch(lambda: None)
    yield opened
    await opened.close()


def call(transport: ZmqTransport, data: bytes) -> socket.socket:
    host, _, port = transport.address.removeprefix("tcp://").rpartition(":")
    made = socket.create_connection((host, int(port)), timeout=60)
    made.sendall(data)
    return made


async def until(transport: ZmqTransport, **sizes: Any) -> None:
    async with asyncio.timeout(60):
        while not sizes.items() <= transport.sizes().items():
            assert transport.receive() is None
            await asyncio.sleep(0.001)


async def test_before_the_handshake_a_frame_has_a_kilobyte_at_most(
    transport: ZmqTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance, "HANDSHAKE_S", 1000.0)  # it is not by that that it ends
    with call(transport, p.greeting() + half(LIMIT // 2, 100)):
        await until(transport, connections_handshaking=1)
        await until(transport, connections_handshaking=0, connections=0, bytes_held=0)


async def test_a_half_sent_frame_counts_and_ends_its_connection_when_it_does_not_come_on(
    transport: ZmqTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stalls, "STALL_S", 0.01)
    with call(transport, HELLO + half(LIMIT, 5000)):
        await until(transport, connections=1, bytes_held=LIMIT)
        await until(transport, connections=0, bytes_held=0)


@pytest.mark.parametrize("leaves", [True, False])
async def test_the_memory_of_a_half_sent_frame_is_free_once_its_connection_has_ended(
    leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stalls, "STALL_S", 1000.0 if leaves else 0.01)
    given: list[weakref.ref[Any]] = []

    def allocate(size: int) -> memoryview:
        memory = np.empty(size, np.uint8)
        given.append(weakref.ref(memory))
        return memory.data

    transport = ZmqTransport(TransportConfig(bind="tcp://127.0.0.1:0"), LIMIT, None, allocate)
    transport.watch(lambda: None)
    with without_collections(), call(transport, HELLO + half(LIMIT, 5000)) as robot:
        await until(transport, connections=1, bytes_held=LIMIT)
        if leaves:
            robot.close()
        await until(transport, connections=0, bytes_held=0)
        assert [found() for found in given] == [None]
    await transport.close()


async def test_a_message_of_which_a_whole_frame_came_and_no_more_ends_its_connection(
    transport: ZmqTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stalls, "STALL_S", 0.05)
    with call(transport, HELLO + b"\1\0\3" + LIMIT.to_bytes(8, "big") + bytes(LIMIT)):
        await until(transport, connections=1, bytes_held=LIMIT)
        await until(transport, connections=0, bytes_held=0)


@pytest.fixture
def small_total(monkeypatch: pytest.MonkeyPatch) -> None:
    """A total that two frames of the largest size fill, for a transport that is opened next."""
    monkeypatch.setattr(router, "ByteBudget", partial(ByteBudget, total=2 * LIMIT + 1))


@pytest.mark.usefixtures("small_total")
async def test_all_connections_together_hold_no_more_than_the_total(transport: ZmqTransport) -> None:
    robots = [
        call(transport, p.greeting() + p.ready(b"DEALER", b"%d" % number) + half(LIMIT, 5000)) for number in range(4)
    ]
    await until(transport, connections=2, connections_handshaking=0, bytes_held=2 * LIMIT)
    for robot in robots:
        robot.close()
    await until(transport, connections=0, bytes_held=0)


@pytest.mark.usefixtures("small_total")
async def test_a_robot_finds_room_for_its_frame_though_others_have_announced_more_than_there_is(
    transport: ZmqTransport,
) -> None:
    greedy = [call(transport, p.greeting() + p.ready(b"DEALER", b"%d" % number) + half(LIMIT, 10)) for number in (1, 2)]
    await until(transport, connections=2, bytes_held=2 * LIMIT)
    observation = b"".join(bytes(part) for part in p.message([b"", b"e", bytes(100_000)], 0))
    with call(transport, HELLO + observation[:5000]) as robot:
        await until(transport, connections=2, bytes_held=LIMIT + 100_000)
        robot.sendall(observation[5000:])
        async with asyncio.timeout(60):
            while (received := transport.receive()) is None:  # noqa: ASYNC110 (no event is set)
                await asyncio.sleep(0.001)
        assert (received[0], len(received[2])) == (b"robot", 100_000)
    for one in greedy:
        one.close()


async def test_a_connection_for_whose_message_no_memory_is_left_ends_and_no_other(
    transport: ZmqTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Stream.read

    def without_memory(self: Stream) -> bool:
        if self.peer is not None and self.peer.identity == b"greedy":
            raise MemoryError
        return read(self)

    greedy, other = (call(transport, p.greeting() + p.ready(b"DEALER", name)) for name in (b"greedy", b"other"))
    await until(transport, connections=2)
    monkeypatch.setattr(Stream, "read", without_memory)
    greedy.sendall(b"\0\1x")
    await until(transport, connections=1)
    assert transport.has_client(b"other")
    for one in (greedy, other):
        one.close()


async def test_answers_that_are_not_read_are_bounded_in_bytes_not_in_number(transport: ZmqTransport) -> None:
    with call(transport, HELLO):
        await until(transport, connections=1)
        number, answer = transport.connection_of(b"robot"), np.zeros(LIMIT, np.uint8).data

        def post_many() -> None:
            for _ in range(100):
                transport.post(number, b"answer", answer)

        with pytest.raises(OSError, match=r"the client does not read: .* bytes wait") as raised:
            post_many()
        assert raised.value.errno == errno.EAGAIN
        assert LIMIT < transport.sizes()["bytes_held"] <= 2 * LIMIT + 1000
    await until(transport, connections=0, bytes_held=0)


class Half:
    """A connection with a half-received frame."""

    def __init__(self, missing: int) -> None:
        self.stream = self
        self.missing_bytes = missing
        self.queued = False


def test_a_slow_frame_that_comes_on_is_left_alone() -> None:
    budget = ByteBudget(None)
    slow: Any = Half(1_000_000)
    assert budget.reserve(slow)(1_000_000)
    assert list(budget.stalled()) == []
    for _ in range(15):
        slow.missing_bytes -= 66_000
        assert list(budget.stalled()) == []
    slow.missing_bytes -= 10
    assert list(budget.stalled()) == [slow]
    budget.received(slow)
    assert (budget.used, budget.receiving) == (0, False)


def test_a_message_that_is_whole_and_waits_for_its_turn_is_left_alone() -> None:
    budget = ByteBudget(None)
    whole: Any = Half(0)
    whole.queued = True
    assert budget.reserve(whole)(1_000_000)
    assert [list(budget.stalled()) for _ in range(3)] == [[], [], []]
