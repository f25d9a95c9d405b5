"""The ROUTER socket against libzmq's DEALER sockets: what it receives, and what affects no other client."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from tests.turns import Turns

from inferential.config import TransportConfig
from inferential.transport import IncomingObservation, MalformedMessage, OutgoingResponse, ZmqTransport

Dial = Callable[..., zmq.Socket[bytes]]
LARGE = 300_000


async def received(transport: ZmqTransport) -> IncomingObservation:
    async with asyncio.timeout(60):
        return await transport.recv()


async def test_a_message_goes_in_and_its_answer_comes_out(transport: ZmqTransport, dial: Dial) -> None:
    robot = dial(transport.address, b"robot")
    robot.send_multipart([b"", b"envelope", b"payload"])
    before = time.monotonic()
    incoming = await received(transport)
    assert (incoming.identity, bytes(incoming.envelope), bytes(incoming.payload)) == (
        b"robot",
        b"envelope",
        b"payload",
    )
    assert before - 10 < incoming.received_at <= time.monotonic()
    await transport.send(OutgoingResponse(b"robot", b"answer", b"values"))
    assert robot.recv_multipart() == [b"", b"answer", b"values"]


@pytest.mark.parametrize("size", [0, 8, LARGE])
async def test_frames_are_received_without_a_copy_and_can_be_written_to(
    size: int, transport: ZmqTransport, dial: Dial
) -> None:
    robot = dial(transport.address, b"robot")
    robot.send_multipart([b"", b"envelope", b"\1" * size])
    payload = (await received(transport)).payload
    assert isinstance(payload, (bytearray, memoryview))
    assert (len(payload), memoryview(payload).readonly) == (size, False)
    payload[:] = bytes(size)


@pytest.mark.parametrize("make", [bytes, bytearray, lambda size: np.zeros(size, np.uint8).data])
@pytest.mark.parametrize("size", [8, LARGE])
async def test_any_buffer_can_be_sent(make: Any, size: int, transport: ZmqTransport, dial: Dial) -> None:
    robot = dial(transport.address, b"robot")
    robot.send_multipart([b"", b"", b""])
    await received(transport)
    transport.post(transport.connection_of(b"robot"), b"answer", make(size))
    assert robot.recv_multipart()[2] == bytes(size)


async def test_messages_of_many_clients_all_arrive_each_ones_in_order(transport: ZmqTransport, dial: Dial) -> None:
    robots = [dial(transport.address, f"robot-{n}".encode()) for n in range(5)]
    for number in range(40):
        for robot in robots:
            robot.send_multipart([b"", str(number).encode(), b""])
    got: dict[bytes, list[int]] = {}
    for _ in range(200):
        incoming = await received(transport)
        got.setdefault(incoming.identity, []).append(int(bytes(incoming.envelope)))
    assert got == {f"robot-{n}".encode(): list(range(40)) for n in range(5)}


async def test_answers_that_are_posted_while_messages_come_lose_none_of_them(
    transport: ZmqTransport, dial: Dial
) -> None:
    # Sending may consume the one signal that something came.
    robot = dial(transport.address, b"robot")
    arrived = asyncio.Event()
    count = 0

    def on_readable() -> None:
        nonlocal count
        while (incoming := transport.receive()) is not None:
            count += 1
            transport.post(transport.connection_of(b"robot"), incoming[1], b"")
        if count == 500:
            arrived.set()

    transport.watch(on_readable)
    for number in range(500):
        robot.send_multipart([b"", str(number).encode(), b""])
        if number % 7 == 0:
            await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await arrived.wait()
    assert [int(robot.recv_multipart()[1]) for _ in range(500)] == list(range(500))


async def test_nothing_to_receive_is_none(transport: ZmqTransport) -> None:
    assert transport.receive() is None


MALFORMED: dict[str, list[bytes]] = {
    "one frame of something": [b"x"],
    "two frames": [b"", b"envelope"],
    "no empty frame first": [b"x", b"envelope", b"payload"],
    "four frames": [b"", b"envelope", b"payload", b"more"],
    "four frames, none empty": [b"a", b"b", b"c", b"d"],
    "five frames": [b"", b"envelope", b"payload", b"more", b"more"],
    "a thousand frames": [b""] * 1000,
    "a thousand and one frames": [b"x"] * 1001,
}


async def refused(transport: ZmqTransport) -> list[MalformedMessage]:
    """All errors up to the next well-formed message, which must come."""
    arrived = asyncio.Event()
    transport.watch(arrived.set)
    errors = []
    async with asyncio.timeout(60):
        while True:
            arrived.clear()
            try:
                incoming = transport.receive()
            except MalformedMessage as error:
                errors.append(error)
                continue
            if incoming is None:
                await arrived.wait()
                continue
            assert bytes(incoming[1]) == b"good"
            return errors


@pytest.mark.parametrize("frames", MALFORMED.values(), ids=list(MALFORMED))
async def test_a_malformed_message_is_reported_with_its_sender_and_the_next_is_received(
    frames: list[bytes], transport: ZmqTransport, dial: Dial
) -> None:
    robot = dial(transport.address, b"robot")
    robot.send_multipart(frames)
    robot.send_multipart([b"", b"good", b""])
    errors = await refused(transport)
    assert errors
    assert {error.identity for error in errors} == {b"robot"}
    assert all("expected frames [empty, envelope, payload]" in error.reason for error in errors)


async def test_the_message_by_which_a_socket_probes_a_router_is_no_error(transport: ZmqTransport, dial: Dial) -> None:
    robot = dial(transport.address, b"robot", PROBE_ROUTER=1)
    robot.send_multipart([b"", b"good", b""])
    assert await refused(transport) == []


@pytest.mark.parametrize(
    ("frames", "hint"),
    [
        ([b"", b"envelope"], "the payload is missing"),
        ([b"envelope", b"payload"], "the empty delimiter is missing"),
        ([b"robot", b"", b"envelope"], "a proxy on the way"),
        ([b"robot", b"", b"envelope", b"payload"], "proxy on the way"),
    ],
)
async def test_the_error_says_what_may_be_the_reason(
    frames: list[bytes], hint: str, transport: ZmqTransport, dial: Dial
) -> None:
    robot = dial(transport.address, b"robot")
    robot.send_multipart(frames)
    robot.send_multipart([b"", b"good", b""])
    (error,) = await refused(transport)
    assert hint in error.reason


async def test_a_client_without_an_identity_gets_one_that_begins_with_a_zero_byte(
    transport: ZmqTransport, dial: Dial
) -> None:
    robot = dial(transport.address)
    robot.send_multipart([b"", b"envelope", b""])
    identity = (await received(transport)).identity
    assert identity.startswith(b"\0")
    transport.post(transport.connection_of(identity), b"answer", b"")
    assert robot.recv_multipart()[1] == b"answer"


async def test_a_flood_of_malformed_messages_stops_no_good_ones(transport: ZmqTransport, dial: Dial) -> None:
    bad, good = dial(transport.address, b"bad", SNDHWM=0), dial(transport.address, b"good")
    for number in range(2000):
        bad.send_multipart([b"x"] * (1 + number % 6))
        if number % 100 == 0:
            good.send_multipart([b"", str(number).encode(), b""])
    bad.send_multipart([b"", b"and now a good one", b""])
    got = [await received(transport) for _ in range(21)]
    assert [int(bytes(one.envelope)) for one in got if one.identity == b"good"] == list(range(0, 2000, 100))
    assert sum(one.identity == b"bad" for one in got) == 1


async def test_waiting_for_a_message_leaves_the_event_loop_to_others_during_a_flood(
    transport: ZmqTransport, dial: Dial
) -> None:
    bad = dial(transport.address, b"bad", SNDHWM=0)
    for _ in range(1000):
        bad.send_multipart([b"x"])
    bad.send_multipart([b"", b"good", b""])
    async with Turns() as turns:
        assert bytes((await received(transport)).envelope) == b"good"
    assert turns.count >= 1000


@pytest.mark.parametrize("identity", [b"unknown", b"", b"\0\0\0\0\7", b"x" * 256])
async def test_posting_to_an_unknown_client_is_an_os_error(identity: bytes, transport: ZmqTransport) -> None:
    with pytest.raises(OSError) as raised:
        transport.post(transport.connection_of(identity), b"answer", b"")
    assert raised.value.errno == errno.EHOSTUNREACH
    with pytest.raises(OSError):
        await transport.send(OutgoingResponse(identity, b"answer", b""))


async def test_posting_to_a_client_that_does_not_read_is_an_os_error_at_the_limit(dial: Dial) -> None:
    transport = ZmqTransport(TransportConfig(bind="tcp://127.0.0.1:0", send_hwm=1))
    try:
        robot = dial(transport.address, b"robot", RCVHWM=1)
        robot.send_multipart([b"", b"", b""])
        await received(transport)
        payload = np.zeros(1_000_000, np.uint8).data

        def post_many() -> None:
            for _ in range(1000):  # what the system's own buffers take goes first
                transport.post(transport.connection_of(b"robot"), b"answer", payload)

        with pytest.raises(OSError) as raised:
            post_many()
        assert raised.value.errno == errno.EAGAIN
    finally:
        await transport.close()


async def test_of_two_live_clients_with_one_identity_the_first_keeps_it_until_it_leaves(
    transport: ZmqTransport, dial: Dial, caplog: Any
) -> None:
    transport.watch(lambda: None)
    first = dial(transport.address, b"robot")
    first.send_multipart([b"", b"first", b""])
    number = (await anything(transport))[4]
    second = dial(transport.address, b"robot")
    second.send_multipart([b"", b"second", b""])
    rival = (await anything(transport))[4]
    assert (transport.objection(number), transport.connection_of(b"robot")) == (None, number)
    assert "'robot' is in use by another robot at 127.0.0.1:" in (transport.objection(rival) or "")
    assert caplog.text.count("is used by two robots") == 1
    first.close(linger=0)
    async with asyncio.timeout(60):
        while transport.objection(rival) is not None:
            transport.receive()
            await asyncio.sleep(0.001)
    transport.post(transport.connection_of(b"robot"), b"answer", b"")
    assert second.recv_multipart()[1] == b"answer"


async def anything(transport: ZmqTransport) -> Any:
    """The next message, of whichever connection."""
    async with asyncio.timeout(60):
        while (incoming := transport.receive()) is None:  # noqa: ASYNC110 (sockets of another thread)
            await asyncio.sleep(0.001)
    return incoming


@pytest.mark.parametrize("bind", ["tcp://127.0.0.1:0", "tcp://*:0"])
async def test_the_address_tells_the_real_port(bind: str, dial: Dial) -> None:
    transport = ZmqTransport(TransportConfig(bind=bind))
    try:
        port = int(transport.address.rpartition(":")[2])
        assert port > 0
        dial(f"tcp://127.0.0.1:{port}", b"robot").send_multipart([b"", b"envelope", b""])
        assert (await received(transport)).identity == b"robot"
    finally:
        await transport.close()


async def test_it_listens_on_a_path_too(short_path: Path, dial: Dial) -> None:
    transport = ZmqTransport(TransportConfig(bind=f"ipc://{short_path}/robots.sock"))
    try:
        assert transport.address == f"ipc://{short_path}/robots.sock"
        dial(transport.address, b"robot").send_multipart([b"", b"envelope", b""])
        assert (await received(transport)).identity == b"robot"
    finally:
        await transport.close()


async def test_it_listens_from_its_construction_on(transport: ZmqTransport) -> None:
    host, _, port = transport.address.removeprefix("tcp://").rpartition(":")
    socket.create_connection((host, int(port)), timeout=60).close()  # no caller has asked for a message yet


async def test_an_address_in_use_is_named(transport: ZmqTransport) -> None:
    with pytest.raises(OSError, match=r"transport\.bind: cannot listen on 'tcp://127.*': Address.*in use") as raised:
        ZmqTransport(TransportConfig(bind=transport.address))
    assert raised.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("bind", ["tcp://127.0.0.1:99999", "ipc:///no/such/folder/robots.sock"])
def test_an_address_that_cannot_be_bound_is_named(bind: str) -> None:
    with pytest.raises(OSError, match=rf"transport\.bind: cannot listen on '{bind}': "):
        ZmqTransport(TransportConfig(bind=bind))


async def test_closing_twice_is_fine_and_frees_the_address() -> None:
    transport = ZmqTransport(TransportConfig(bind="tcp://127.0.0.1:0"))
    address = transport.address
    await transport.close()
    await transport.close()
    again = ZmqTransport(TransportConfig(bind=address))
    await again.close()


async def test_posting_after_close_is_an_os_error(dial: Dial) -> None:
    transport = ZmqTransport(TransportConfig(bind="tcp://127.0.0.1:0"))
    dial(transport.address, b"robot").send_multipart([b"", b"envelope", b""])
    await received(transport)
    await transport.close()
    with pytest.raises(OSError):
        transport.post(transport.connection_of(b"robot"), b"answer", b"")


async def test_a_waiting_receiver_gets_an_error_when_the_transport_closes() -> None:
    transport = ZmqTransport(TransportConfig(bind="tcp://127.0.0.1:0"))
    waiting = asyncio.create_task(received(transport))
    await asyncio.sleep(0)
    await transport.close()
    with pytest.raises(OSError, match="closed"):
        await waiting
    with pytest.raises(OSError, match="closed"):
        await transport.recv()


async def test_an_answer_on_its_way_arrives_though_the_transport_closes(dial: Dial) -> None:
    transport = ZmqTransport(TransportConfig(bind="tcp://127.0.0.1:0"))
    robot = dial(transport.address, b"robot")
    robot.send_multipart([b"", b"envelope", b""])
    await received(transport)
    transport.post(transport.connection_of(b"robot"), b"answer", b"last")
    await transport.close()
    assert robot.recv_multipart() == [b"", b"answer", b"last"]


async def test_a_frame_above_the_limit_ends_its_senders_connection_alone(dial: Dial) -> None:
    transport = ZmqTransport(TransportConfig(bind="tcp://127.0.0.1:0"), max_message_bytes=1000)
    try:
        bad, good = dial(transport.address, b"bad"), dial(transport.address, b"good")
        bad.send_multipart([b"", b"envelope", bytes(1001)])
        good.send_multipart([b"", b"envelope", bytes(1000)])
        incoming = await received(transport)
        assert (incoming.identity, len(incoming.payload)) == (b"good", 1000)
    finally:
        await transport.close()


async def test_it_knows_whether_a_client_has_sent_something_that_was_not_looked_at(
    transport: ZmqTransport, dial: Dial
) -> None:
    robot = dial(transport.address, b"robot")
    robot.send_multipart([b"", b"first", b""])
    await received(transport)
    assert not transport.has_unread(b"robot")
    assert not transport.has_unread(b"other")
    robot.send_multipart([b"", b"second", b""])
    async with asyncio.timeout(60):
        while not transport.has_unread(b"robot"):  # noqa: ASYNC110 (a socket of another thread)
            await asyncio.sleep(0.001)
    await received(transport)
    assert not transport.has_unread(b"robot")
