"""The ROUTER and its peers: connections without an identity are closed, and one that leaves affects no other."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import random
import select
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import zmq
from tests.zmtp.conftest import fill

from inferential import AsyncConnection
from inferential.config import TransportConfig
from inferential.transport import (
    IncomingObservation,
    OutgoingResponse,
    ZmqTransport,
    acceptance,
    listening,
    router,
    silent,
    zmq_transport,
)
from inferential.transport.listening import Listener
from inferential.transport.silent import SILENT
from inferential.zmtp import protocol as p
from inferential.zmtp.sockets import Connected

GREETING = p.greeting()
LARGE = np.zeros(8_000_000, np.uint8).data


def hello(identity: bytes = b"robot", socket_type: bytes = b"DEALER") -> bytes:
    return GREETING + p.ready(socket_type, identity)


def message(envelope: bytes = b"e", payload: bytes = b"p") -> bytes:
    return b"".join(bytes(part) for part in p.message([b"", envelope, payload], 1))


class Raw:
    """A plain socket to the transport, in the test's hands."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=60)

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    async def hear(self, size: int) -> bytes:
        """So many bytes; fewer where the connection ends first."""

        def read() -> bytes:
            data = b""
            while len(data) < size:
                try:
                    piece = self.socket.recv(size - len(data))
                except ConnectionResetError:
                    break
                if not piece:
                    break
                data += piece
            return data

        return await asyncio.to_thread(read)

    async def is_let_go(self) -> bool:
        """Whether the connection ends, whatever is said before."""
        return len(await self.hear(1_000_000)) < 1_000_000

    def reset(self) -> None:
        """Leaves as a machine does that crashed and came back."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()


Call = Callable[..., Raw]


@pytest.fixture
def call(transport: ZmqTransport) -> Iterator[Call]:
    """`call(b"...")`: connects and says that."""
    calls: list[Raw] = []

    def called(said: bytes = b"", to: ZmqTransport = transport) -> Raw:
        calls.append(Raw(to.address))
        calls[-1].say(said)
        return calls[-1]

    yield called
    for one in calls:
        one.socket.close()


@pytest.fixture
async def heard(transport: ZmqTransport) -> AsyncIterator[asyncio.Queue[IncomingObservation]]:
    """What the transport receives, for as long as the test runs."""
    queue: asyncio.Queue[IncomingObservation] = asyncio.Queue()

    async def hear() -> None:
        while True:
            queue.put_nowait(await transport.recv())

    hearing = asyncio.create_task(hear())
    await asyncio.sleep(0)
    yield queue
    assert not hearing.done(), hearing
    hearing.cancel()


Heard = asyncio.Queue[IncomingObservation]


async def next_of(heard: Heard) -> tuple[bytes, bytes]:
    async with asyncio.timeout(60):
        incoming = await heard.get()
    return incoming.identity, bytes(incoming.envelope)


def accepted(robot: Raw) -> int:
    """The descriptor of the transport's end of a connection, which is in this process too."""
    (fd,) = (one.fd for one in psutil.Process().net_connections("tcp") if one.raddr == robot.socket.getsockname())
    return int(fd)


def connections(transport: ZmqTransport) -> int:
    """How many robots are connected."""
    return transport.sizes()["connections"]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (sockets of another thread)
            await asyncio.sleep(0.001)


# Unidentified connections


async def test_a_robot_that_presumes_what_the_server_will_say_is_heard(heard: Heard, call: Call) -> None:
    """It sends its first messages with its part of the handshake, since it was connected just before."""
    robot = call(hello() + message(b"first") + message(b"second"))
    assert [bytes((await heard.get()).envelope) for _ in range(2)] == [b"first", b"second"]
    assert await robot.hear(len(GREETING)) == GREETING


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x05\0robot",
        GREETING[:10] + b"\1\0",
        GREETING[:12] + b"PLAIN".ljust(52, b"\0"),
        GREETING[:12] + b"CURVE".ljust(52, b"\0"),
        GREETING + message(),
        GREETING + p.ping(),
        hello(socket_type=b"PUSH"),
        hello(b"\0robot"),
        hello(b"x" * 256),
        hello() + b"\xff" * 9,
        hello() + p.command(bytes(2000)),
        hello() + b"\2" + bytes([255] * 8),
    ],
)
async def test_a_protocol_error_closes_its_connection_and_affects_no_other(
    said: bytes, heard: Heard, call: Call
) -> None:
    good = call(hello(b"good") + message(b"before"))
    assert await next_of(heard) == (b"good", b"before")
    bad = call(said)
    assert await bad.is_let_go()
    good.say(message(b"after"))
    assert await next_of(heard) == (b"good", b"after")


async def test_a_robot_with_another_security_mechanism_is_not_connected(
    transport: ZmqTransport, heard: Heard, dial: Any
) -> None:
    public, secret = zmq.curve_keypair()
    dial(transport.address, b"plain", PLAIN_USERNAME=b"me", LINGER=0).send_multipart([b"", b"e", b"p"])
    curve = {"CURVE_SERVERKEY": public, "CURVE_PUBLICKEY": public, "CURVE_SECRETKEY": secret}
    dial(transport.address, b"curve", **curve, LINGER=0).send_multipart([b"", b"e", b"p"])
    dial(transport.address, b"good").send_multipart([b"", b"e", b"p"])
    assert await next_of(heard) == (b"good", b"e")
    assert connections(transport) == 1


@pytest.mark.parametrize("said", [b"", GREETING[:40], GREETING, GREETING + b"\4"])
async def test_a_handshake_that_takes_too_long_is_closed_without_any_other_event(
    said: bytes, heard: Heard, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance, "HANDSHAKE_S", 0.05)
    good = call(hello(b"good") + message(b"before"))
    await next_of(heard)
    assert await call(said).is_let_go()
    good.say(message(b"after"))  # the handshake's time is over for it too
    assert await next_of(heard) == (b"good", b"after")


async def test_a_handshake_over_a_network_that_takes_seconds_has_twice_the_time(
    transport: ZmqTransport,
    heard: Heard,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    pass_time: Callable[[float], None],
) -> None:
    monkeypatch.setattr(Connected, "round_trip_s", lambda self: 3.0)
    far, silent = call(GREETING), call(GREETING)
    await until(lambda: transport.sizes()["connections_handshaking"] == 2)
    pass_time(1.2 * acceptance.HANDSHAKE_S)
    await asyncio.sleep(0.01)
    far.say(hello(b"far")[len(GREETING) :] + message(b"here"))
    assert await next_of(heard) == (b"far", b"here")
    pass_time(acceptance.HANDSHAKE_S)
    assert await silent.is_let_go()


async def test_random_bytes_affect_no_other_client(transport: ZmqTransport, heard: Heard, call: Call) -> None:
    chance = random.Random(0)
    good = call(hello(b"good"))
    for number in range(100):
        noise = chance.randbytes(chance.randint(1, 300))
        if number % 2:
            noise = bytes(byte & 0b111 for byte in noise)  # more of it are frames
        with call([b"", GREETING, hello(), hello() + message()][number % 4] + noise).socket:
            good.say(message(b"%d" % number))
            while (said := await next_of(heard)) != (b"good", b"%d" % number):
                assert said[0] != b"good"
    await until(lambda: connections(transport) == 1)


# Descriptors


class Descriptors:
    """A listening socket of a process that has no descriptor left, for so many calls as `lacking` says."""

    def __init__(self, real: socket.socket) -> None:
        self._real, self.lacking = real, 0

    def accept(self) -> Any:
        if self.lacking:
            self.lacking -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self._real.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture
def listened(monkeypatch: pytest.MonkeyPatch) -> list[Listener]:
    """What the transport listens on."""
    found: list[Listener] = []

    real = listening.listen

    def listen_so(bind: str) -> Listener:
        found.append(real(bind))
        return found[-1]

    monkeypatch.setattr(listening, "listen", listen_so)
    return found


@pytest.fixture
async def transport(listened: list[Listener], transport: ZmqTransport) -> ZmqTransport:
    """The transport, with `listened`."""
    return transport


@pytest.fixture
def descriptors(transport: ZmqTransport, listened: list[Listener], monkeypatch: pytest.MonkeyPatch) -> Descriptors:
    scarce = Descriptors(listened[0].sockets[0])
    monkeypatch.setattr(listened[0], "sockets", [scarce])
    return scarce


async def test_without_descriptors_connected_robots_are_served_and_others_accepted_later(
    descriptors: Descriptors, heard: Heard, call: Call, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(acceptance, "ACCEPT_RETRY_S", 0.01)
    there = call(hello(b"there") + message())
    await next_of(heard)
    descriptors.lacking = 3
    refused = call(hello(b"refused"))
    there.say(message(b"still"))
    assert await next_of(heard) == (b"there", b"still")
    assert await refused.is_let_go()  # by the descriptor in reserve: it knows, and comes again
    assert descriptors.lacking == 0
    call(hello(b"late") + message(b"at last"))
    assert await next_of(heard) == (b"late", b"at last")
    assert caplog.text.count("cannot accept connections") == 1


async def test_an_idle_connection_gives_way_to_a_robot_when_descriptors_run_out(
    transport: ZmqTransport, descriptors: Descriptors, heard: Heard, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance, "SETTLED_S", 0.0)
    mute = [call(), call()]
    await until(lambda: transport.sizes()["connections_handshaking"] == 2)
    descriptors.lacking = 1
    call(hello(b"good") + message())
    assert await next_of(heard) == (b"good", b"e")
    assert await mute[0].is_let_go()
    assert transport.sizes()["connections_handshaking"] == 1


async def test_where_hardly_any_is_left_a_silent_connection_gives_way_before_there_is_none(
    transport: ZmqTransport, heard: Heard, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance, "SETTLED_S", 0.0)
    mute = call()
    await until(lambda: transport.sizes()["connections_handshaking"] == 1)
    monkeypatch.setattr(acceptance, "is_among_last", lambda fd: True)
    call(hello(b"good") + message())
    assert await next_of(heard) == (b"good", b"e")
    assert await mute.is_let_go()


async def test_a_connection_of_another_port_that_says_nothing_gives_way_to_a_robot(
    transport: ZmqTransport, descriptors: Descriptors, heard: Heard, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silent, "SETTLED_S", 0.0)
    ended: list[str] = []
    SILENT.note("page", lambda: ended.append("page"))
    descriptors.lacking = 1
    call(hello(b"good") + message())
    assert await next_of(heard) == (b"good", b"e")
    assert ended == ["page"]


async def test_a_robot_that_never_asked_gives_way_but_not_one_that_has_just_come(
    transport: ZmqTransport, descriptors: Descriptors, heard: Heard, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle, asking = call(hello(b"idle")), call(hello(b"asking") + message())
    await next_of(heard)
    await until(lambda: connections(transport) == 2)
    descriptors.lacking = 1
    assert await call(hello(b"refused")).is_let_go()  # the idle one has just come
    monkeypatch.setattr(acceptance, "SETTLED_S", 0.0)
    descriptors.lacking = 1
    call(hello(b"good") + message())
    assert await next_of(heard) == (b"good", b"e")
    assert await idle.is_let_go()
    asking.say(message(b"still"))
    assert await next_of(heard) == (b"asking", b"still")


def descriptors_open() -> int:
    """How many this process has; what other tests have left, and ZeroMQ ends in its own time, may end at any time."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


async def test_connections_that_ended_leave_no_descriptor(transport: ZmqTransport, heard: Heard, call: Call) -> None:
    before = descriptors_open()
    for number in range(20):
        robot = call(hello(b"%d" % number) + message())
        await next_of(heard)
        robot.reset() if number % 2 else robot.socket.close()
    for said in (b"", GREETING, b"nonsense"):
        call(said).socket.close()
    await until(lambda: not any(transport.sizes().values()))
    assert descriptors_open() <= before


# Robots that leave, come back or do not read


async def test_a_robot_whose_connection_was_reset_is_not_connected(
    transport: ZmqTransport, heard: Heard, call: Call
) -> None:
    robot = call(hello() + message())
    await next_of(heard)
    robot.reset()
    await until(lambda: not connections(transport))
    with pytest.raises(OSError) as raised:
        transport.post(transport.connection_of(b"robot"), b"answer", b"")
    assert raised.value.errno == errno.EHOSTUNREACH


async def test_posting_to_a_robot_that_has_just_been_reset_is_an_os_error(
    transport: ZmqTransport, heard: Heard, call: Call
) -> None:
    robot = call(hello() + message())
    await next_of(heard)
    robot.reset()
    with pytest.raises(OSError) as raised:
        transport.post(transport.connection_of(b"robot"), b"answer", b"")  # before the event loop has had a look
    assert raised.value.errno == errno.EHOSTUNREACH
    assert not connections(transport)


async def test_a_robot_reconnects_although_its_former_connection_has_unsent_messages(
    transport: ZmqTransport, heard: Heard, call: Call
) -> None:
    first = call(hello() + message(b"first"))
    await next_of(heard)
    transport.post(transport.connection_of(b"robot"), b"answer", LARGE)
    assert transport.sizes()["messages_unsent"]
    second = call(hello() + message(b"second"))
    assert await next_of(heard) == (b"robot", b"second")
    transport.post(transport.connection_of(b"robot"), b"answer", b"small")
    end = await second.hear(len(GREETING + p.ready(b"ROUTER", b"")) + len(message(b"answer", b"small")))
    assert end.endswith(message(b"answer", b"small"))
    assert len(await first.hear(10_000_000)) < len(LARGE)


async def test_messages_from_before_a_reconnection_are_received_first(transport: ZmqTransport, call: Call) -> None:
    call(hello() + b"".join(message(b"%d" % number) for number in range(60)))
    said: list[int] = []

    def hear() -> None:
        incoming = transport.receive()
        if incoming is not None:
            said.append(int(bytes(incoming[1])))

    while not said:
        hear()
    call(hello() + b"".join(message(b"%d" % number) for number in range(60, 120)))
    while len(said) < 120:
        hear()
    assert said == list(range(120))


async def test_an_event_of_a_connection_that_was_just_closed_is_ignored(transport: ZmqTransport, call: Call) -> None:
    def look(condition: Callable[[], Any]) -> None:
        while not condition():
            transport.receive()

    former = call(hello())
    look(lambda: connections(transport))
    transport.post(transport.connection_of(b"robot"), b"answer", LARGE)
    newer = call(GREETING)
    look(lambda: transport.sizes()["connections_handshaking"])
    answered = len(GREETING + p.ready(b"ROUTER", b""))  # READY comes once its greeting was read
    look(lambda: len(newer.socket.recv(1000, socket.MSG_PEEK)) >= answered)
    number = transport.connection_of(b"robot")
    newer.say(p.ready(b"DEALER", b"robot"))  # one select tells of this,
    former.socket.recv(4_000_000)  # and that the former can be written to,
    former.say(message())  # and read from
    look(lambda: transport.connection_of(b"robot") != number)
    transport.post(transport.connection_of(b"robot"), b"answer", b"")


async def test_a_heartbeat_reply_that_the_system_does_not_take_is_sent_later(
    transport: ZmqTransport, heard: Heard, call: Call
) -> None:
    robot = call(hello() + message())
    await next_of(heard)
    skipped = fill(accepted(robot))
    robot.say(p.ping())
    before = len(GREETING + p.ready(b"ROUTER", b"")) + skipped
    assert (await robot.hear(before + 7))[before:] == p.command(p.PONG)


async def test_a_flood_of_one_robot_does_not_keep_another_waiting(transport: ZmqTransport, call: Call) -> None:
    flood = call(hello(b"flood"))
    flood.socket.setblocking(False)
    good = call(hello(b"good"))
    given: list[bytes] = []

    def pour() -> None:
        try:
            while True:
                flood.socket.send(message() * 1000)
        except BlockingIOError:
            pass

    pour()
    while len(given) < 500:
        incoming = transport.receive()
        if incoming is not None:
            given.append(incoming[0])
    good.say(message())
    at = len(given)
    while b"good" not in given:
        if (incoming := transport.receive()) is not None:
            given.append(incoming[0])
    assert given.index(b"good") - at <= 2 * router.POLL_AFTER


async def test_a_flood_of_the_only_robot_does_not_keep_others_from_connecting(
    transport: ZmqTransport, call: Call
) -> None:
    flood = call(hello(b"flood"))
    flood.socket.setblocking(False)
    given: list[bytes] = []
    rest = b""

    def give() -> None:
        nonlocal rest
        rest = rest or message() * 100
        with contextlib.suppress(BlockingIOError):
            rest = rest[flood.socket.send(rest) :]
        if (incoming := transport.receive()) is not None:
            given.append(incoming[0])

    while len(given) < 500:
        give()
    call(hello(b"good") + message())
    at = len(given)
    for _ in range(8 * router.POLL_AFTER):
        give()
    assert b"good" in given[at:]


async def test_buffered_messages_for_the_only_robot_are_sent_while_it_keeps_sending(
    transport: ZmqTransport, call: Call
) -> None:
    robot = call(hello())
    robot.socket.setblocking(False)
    while not connections(transport):
        transport.receive()
    assert transport.receive() is None
    transport.post(transport.connection_of(b"robot"), b"answer", LARGE)
    assert transport.sizes()["messages_unsent"]
    end = accepted(robot)
    for _ in range(100):
        if not transport.sizes()["messages_unsent"]:
            return
        robot.socket.send(message())
        with contextlib.suppress(BlockingIOError):
            robot.socket.recv(1_000_000)
        select.select([end], [], [], 10)
        assert transport.receive() is not None
        assert transport.receive() is None  # so that each look finds something, and asks for no more
    pytest.fail("nothing of it leaves any more")


# Used alone, without a server


@pytest.mark.parametrize("others", [0, 1, 3])
async def test_a_connected_client_is_found_when_only_send_is_called(
    others: int, transport: ZmqTransport, call: Call
) -> None:
    before = len(GREETING + p.ready(b"ROUTER", b""))
    for identity in [*(b"other-%d" % number for number in range(others)), b"robot"]:
        robot = call(hello(identity))
        await transport.send(OutgoingResponse(identity, b"answer", b"values"))
        expected = message(b"answer", b"values")
        assert (await robot.hear(before + len(expected)))[before:] == expected


async def test_a_client_that_is_still_in_its_handshake_is_waited_for_when_only_send_is_called(
    transport: ZmqTransport, call: Call
) -> None:
    robot = call(GREETING)
    sending = asyncio.create_task(transport.send(OutgoingResponse(b"robot", b"answer", b"values")))
    await until(lambda: transport.sizes()["connections_handshaking"] == 1)
    assert not sending.done()
    robot.say(p.ready(b"DEALER", b"robot"))
    await sending
    assert connections(transport) == 1


async def test_sending_leaves_messages_for_a_receiver_that_waits(transport: ZmqTransport, call: Call) -> None:
    receiving = asyncio.create_task(transport.recv())
    await asyncio.sleep(0)
    call(hello() + message(b"said"))
    await transport.send(OutgoingResponse(b"robot", b"answer", b""))
    async with asyncio.timeout(60):
        assert (await receiving).identity == b"robot"


async def test_sending_to_a_client_that_is_not_connected_does_not_wait_for_an_idle_connection_for_ever(
    transport: ZmqTransport, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zmq_transport, "SEND_WAIT_S", 0.01)
    call()
    with pytest.raises(OSError, match="not connected"):
        await transport.send(OutgoingResponse(b"robot", b"answer", b""))
    assert transport.sizes()["connections_handshaking"] == 1


# Ends


async def test_a_close_that_is_cancelled_ends_all_connections_all_the_same(call: Call) -> None:
    before = descriptors_open()
    transport = ZmqTransport(TransportConfig(bind="tcp://127.0.0.1:0"))
    robot = call(hello() + message(), to=transport)
    await transport.recv()
    transport.post(transport.connection_of(b"robot"), b"answer", LARGE)
    closing = asyncio.create_task(transport.close())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    robot.socket.close()
    assert descriptors_open() <= before


async def test_an_answer_larger_than_the_systems_buffers_arrives_though_the_transport_closes(
    heard: Heard, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zmq_transport, "LINGER_MS", 10_000)
    transport = ZmqTransport(TransportConfig(bind="tcp://127.0.0.1:0"))
    robot = call(hello() + message(), to=transport)
    await transport.recv()
    transport.post(transport.connection_of(b"robot"), b"answer", LARGE)
    assert transport.sizes()["messages_unsent"]
    size = len(GREETING + p.ready(b"ROUTER", b"")) + len(message(b"answer", bytes(LARGE)))
    hearing = asyncio.create_task(robot.hear(size + 1))
    await transport.close()
    assert len(await hearing) == size


# Event loops and addresses


def test_another_event_loop_than_asyncios_will_do() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def serve() -> None:
        transport = ZmqTransport(TransportConfig(bind="tcp://127.0.0.1:0"))
        async with AsyncConnection(transport.address, "robot") as connection:
            model = connection.model("m", queue="all")
            for _ in range(3):
                await model.observe(n=np.zeros(300_000))
                async with asyncio.timeout(60):
                    incoming = await transport.recv()
                assert incoming.identity == b"robot"
                assert len(incoming.payload) == 2_400_000
                transport.post(transport.connection_of(b"robot"), b"", b"")
                async with asyncio.timeout(60):
                    while connection.stats.unmatched == 0:
                        await model.get_result(5)
        await transport.close()

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(serve())
    finally:
        loop.close()


async def hear_both(transport: ZmqTransport) -> None:
    """A robot that uses libzmq has sent, and one of ours does: both are read."""
    async with asyncio.timeout(60):
        assert (await transport.recv()).identity == b"robot"
    async with AsyncConnection(transport.address, "own") as connection:
        await connection.model("m").observe()
        async with asyncio.timeout(60):
            assert (await transport.recv()).identity == b"own"
    await transport.close()


async def test_robots_may_come_by_ipv6(dial: Any) -> None:
    try:
        transport = ZmqTransport(TransportConfig(bind="tcp://[::1]:*"))
    except OSError:
        pytest.skip("this machine has no IPv6")
    dial(transport.address, b"robot", IPV6=1).send_multipart([b"", b"e", b"p"])
    await hear_both(transport)


async def test_robots_may_come_by_a_name_in_no_file_system(dial: Any) -> None:
    transport = ZmqTransport(TransportConfig(bind=f"ipc://@inferential-{os.getpid()}"))
    dial(transport.address, b"robot").send_multipart([b"", b"e", b"p"])
    await hear_both(transport)
