"""ZMTP streams: with each other, with a scripted peer, and with libzmq."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import zmq
from tests.zmtp.conftest import read_exactly

from inferential.zmtp import ConnectionEnded, ProtocolError, Stream
from inferential.zmtp import protocol as p
from inferential.zmtp import stream as module
from inferential.zmtp.handshake import NullHandshake

Pair = tuple[socket.socket, socket.socket]
Make = Callable[..., Stream]
GREETING = p.greeting()
LARGE = 3_000_000


def plain(frames: Any) -> list[bytes]:
    assert isinstance(frames, list), frames
    return [bytes(one) for one in frames]


def readable(*streams: Any, timeout_s: float = 10) -> None:
    assert select.select(streams, [], [], timeout_s)[0]


def shaken(*streams: Stream) -> None:
    """Until both have shaken hands."""
    while waiting := [one for one in streams if not one.handshake()]:
        readable(*waiting)


def received(stream: Stream, sender: Stream | None = None) -> Any:
    """The next message; the sender's rest is sent meanwhile."""
    while (found := stream.next()) is None:
        if sender is not None and sender.unsent:
            sender.flush()
        if not stream.read():
            readable(stream)
    return found


@pytest.fixture
def both(pair: Pair, make_stream: Make) -> tuple[Stream, Stream]:
    """Two streams that have shaken hands."""
    robot, server = make_stream(pair[0], b"DEALER", identity=b"robot"), make_stream(pair[1], b"ROUTER")
    shaken(robot, server)
    return robot, server


@pytest.fixture
def played(pair: Pair, make_stream: Make) -> tuple[Stream, socket.socket]:
    """A server's stream that has shaken hands with a plain socket."""
    stream, end = make_stream(pair[0]), pair[1]
    end.sendall(GREETING + p.ready(b"DEALER", b"robot"))
    shaken(stream)
    read_exactly(end, 64 + len(p.ready(b"ROUTER", b"")))
    return stream, end


# Shaking hands


def test_each_end_learns_what_the_other_is(both: tuple[Stream, Stream]) -> None:
    robot, server = both
    assert robot.peer == p.Ready(b"ROUTER", b"")
    assert server.peer == p.Ready(b"DEALER", b"robot")


class NotingSocket(socket.socket):
    """A socket that notes with which flags it sends."""

    flags: tuple[int, ...] = ()

    def send(self, data: Any, flags: int = 0) -> int:
        self.flags += (flags,)
        return super().send(data, flags)


@pytest.mark.parametrize(
    ("said", "flags"),
    [
        (GREETING[:10], (0, 0)),  # libzmq says the rest once it has read where a greeting begins
        (GREETING, (module.WITH_NEXT, 0)),
        (GREETING + p.ready(b"DEALER", b"robot"), (module.WITH_NEXT, 0)),
        (GREETING + p.ready(b"DEALER", b"robot") + p.ping(), (module.WITH_NEXT, module.WITH_NEXT)),
        (GREETING + p.ready(b"DEALER", b"r" * 250) + p.ping(), (module.WITH_NEXT, 0)),  # a long frame
    ],
    ids=["its beginning", "greeting", "READY", "and more", "a long one"],
)
def test_a_server_answers_what_has_come_already_in_few_packets(said: bytes, flags: tuple[int, ...], pair: Pair) -> None:
    server, end = NotingSocket(fileno=pair[0].detach()), pair[1]
    end.sendall(said)
    stream = Stream(server, b"ROUTER", handshake=NullHandshake(b"ROUTER", b"", accepting=True))
    stream.read()
    end.sendall((GREETING + p.ready(b"DEALER", b"robot"))[len(said) :])
    shaken(stream)
    assert server.flags == flags
    stream.close()


def test_hands_are_shaken_though_every_byte_comes_by_itself(pair: Pair, make_stream: Make) -> None:
    stream, end = make_stream(pair[0]), pair[1]
    for byte in GREETING + p.ready(b"DEALER", b"robot"):
        assert not stream.handshake()
        end.sendall(bytes((byte,)))
        readable(stream)
    assert stream.handshake()


def test_a_message_that_came_with_the_handshake_is_given_after_it(pair: Pair, make_stream: Make) -> None:
    stream, end = make_stream(pair[0]), pair[1]
    end.sendall(GREETING + p.ready(b"DEALER", b"robot") + b"".join(p.message([b"", b"e", b"p"], 99)))  # type: ignore[arg-type]
    shaken(stream)
    assert stream.buffered()
    assert plain(stream.next()) == [b"", b"e", b"p"]
    assert not stream.buffered()


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        GREETING + p.ping(),
        GREETING + b"\0\1x",
        GREETING + b"\1\1x" * 100,
        GREETING + p.ready(b"PUB", b""),
        GREETING + p.command(p.ERROR + b"\2no"),
        GREETING[:12] + b"CURVE".ljust(52, b"\0"),
        GREETING[:12] + b"PLAIN".ljust(52, b"\0"),
    ],
)
def test_an_invalid_handshake_is_an_error(said: bytes, pair: Pair, make_stream: Make) -> None:
    stream = make_stream(pair[0])
    pair[1].sendall(said)
    readable(stream)
    with pytest.raises(ProtocolError):
        shaken(stream)


def test_a_peer_that_closes_during_the_handshake_is_an_error(pair: Pair, make_stream: Make) -> None:
    stream = make_stream(pair[0])
    pair[1].sendall(GREETING[:30])
    pair[1].close()
    readable(stream)
    with pytest.raises(ConnectionEnded):
        shaken(stream)


# Messages


@pytest.mark.parametrize("size", [0, 255, 256, 8191, 8192, module.JOIN_BELOW_BYTES, LARGE])
def test_messages_of_all_sizes_arrive_whole_both_ways(size: int, both: tuple[Stream, Stream]) -> None:
    robot, server = both
    payload = np.random.default_rng(size).bytes(size)
    for sender, receiver in (both, both[::-1]):
        sender.send([b"", b"one", payload])
        sender.send([b"", b"two", b""])
        assert plain(received(receiver, sender)) == [b"", b"one", payload]
        assert plain(received(receiver, sender)) == [b"", b"two", b""]
    assert robot.unsent == server.unsent == 0


def test_what_the_system_does_not_take_is_counted_in_messages_until_it_is_flushed(both: tuple[Stream, Stream]) -> None:
    sender, receiver = both
    payload = bytes(LARGE)
    while not sender.unsent:
        sender.send([b"", b"e", payload])
    sender.send([b"", b"e", b"small"])
    assert sender.unsent == 2
    while plain(received(receiver, sender))[2] != b"small":
        pass
    assert sender.unsent == 0


def test_a_message_whose_last_piece_is_empty_has_left_when_all_of_it_has(both: tuple[Stream, Stream]) -> None:
    sender, receiver = both
    while not sender.unsent:
        sender.send([b"", b"e", [bytes(LARGE), b""]])
    while sender.unsent:
        received(receiver, sender)


def test_one_reading_takes_a_part_of_a_very_large_frame_only(
    played: tuple[Stream, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BODY_READ_BYTES", 1000)
    stream, end = played
    head = p.message([b"", b"e", bytes(20_000)], 0)[:-1]
    end.sendall(b"".join(bytes(one) for one in head) + bytes(3000))
    readable(stream)
    assert stream.read()
    assert stream.next() is None
    for _ in range(16):
        end.sendall(bytes(1000))
        readable(stream)
        assert stream.read()
        assert not stream.drained  # it stopped by itself: it did not ask for more
        assert stream.next() is None
    end.sendall(bytes(1000))
    readable(stream)
    assert stream.read()
    assert len(plain(stream.next())[2]) == 20_000


def test_the_end_of_a_connection_is_reported_after_the_messages_before_it(played: tuple[Stream, socket.socket]) -> None:
    stream, end = played
    end.sendall(p.ping() + b"".join(bytes(one) for one in p.message([b"", b"e", b"p"], 99)))
    end.close()
    readable(stream)
    assert stream.read()
    assert plain(stream.next()) == [b"", b"e", b"p"]
    with pytest.raises(ConnectionEnded):
        received(stream)


def test_a_reset_is_reported_as_an_end(played: tuple[Stream, socket.socket]) -> None:
    stream, end = played
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    end.close()
    readable(stream)
    with pytest.raises(ConnectionEnded):
        stream.read()
    with pytest.raises(ConnectionEnded):
        stream.send([b"", b"e", b"p"])


def test_what_was_sent_arrives_though_the_stream_closes_on_unread_data(played: tuple[Stream, socket.socket]) -> None:
    stream, end = played
    end.sendall(b"\0\1x" * 1000)
    stream.send([b"", b"e", b"last"])
    stream.close()
    stream.close()
    assert read_exactly(end, 11).endswith(b"last")
    assert end.recv(1) == b""


# Heartbeats


def test_a_heartbeat_is_answered_with_its_context(played: tuple[Stream, socket.socket]) -> None:
    stream, end = played
    end.sendall(p.command(p.PING + b"\0\1abc"))
    readable(stream)
    stream.read()
    assert stream.next() is None
    assert read_exactly(end, 10) == p.command(p.PONG + b"abc")


def test_heartbeats_between_frames_and_unknown_commands_disturb_no_message(
    played: tuple[Stream, socket.socket],
) -> None:
    stream, end = played
    end.sendall(b"\1\0" + p.ping() + b"\1\1e" + p.command(b"\x09SUBSCRIBEall") + p.ping() + b"\0\1p")
    readable(stream)
    stream.read()
    assert plain(stream.next()) == [b"", b"e", b"p"]
    assert read_exactly(end, 14) == p.command(p.PONG) * 2


def test_a_heartbeat_is_asked_for_and_answered(both: tuple[Stream, Stream]) -> None:
    robot, server = both
    robot.ping()
    assert not robot.alive
    readable(server)
    server.read()
    assert server.next() is None
    readable(robot)
    robot.read()
    assert robot.alive
    assert robot.next() is None


def test_an_other_end_of_zmtp_3_0_is_not_asked_for_a_heartbeat(pair: Pair, make_stream: Make) -> None:
    stream, end = make_stream(pair[0]), pair[1]
    end.sendall(GREETING[:11] + b"\0" + GREETING[12:] + p.ready(b"DEALER", b"robot"))
    shaken(stream)
    stream.ping()
    assert stream.alive
    stream.send([b"", b"envelope", b"payload"])
    read_exactly(end, len(GREETING) + len(p.ready(b"ROUTER", b"")))
    assert read_exactly(end, 4).startswith(b"\1\0\1")  # the message, with no command before it


def test_an_other_end_that_takes_what_is_unsent_gives_a_sign_of_life(both: tuple[Stream, Stream]) -> None:
    sender, receiver = both
    while not sender.unsent:
        sender.send([b"", b"e", bytes(LARGE)])
    sender.ping()
    sender.flush()
    assert not sender.alive
    while not sender.alive:
        receiver.read()
        receiver.next()
        sender.flush()


def test_a_flood_of_heartbeats_is_answered_gulp_by_gulp(played: tuple[Stream, socket.socket]) -> None:
    stream, end = played
    end.sendall(p.ping() * 2000)
    readable(stream)
    assert stream.read()
    assert stream.next() is None
    assert 0 < len(end.recv(1_000_000)) <= module.READ_BYTES
    end.sendall(b"".join(bytes(one) for one in p.message([b"", b"e", b"p"], 99)))
    assert plain(received(stream)) == [b"", b"e", b"p"]


def test_a_flood_of_commands_leaves_the_caller_its_turn(played: tuple[Stream, socket.socket]) -> None:
    stream, end = played
    end.sendall(p.command(p.PONG) * 10_000)
    readable(stream)
    assert stream.receive() is None
    assert not stream.drained
    assert stream.has_unread()


# libzmq on the other end


@pytest.fixture
def open_zmq() -> Iterator[Callable[[int], Any]]:
    """`open_zmq(zmq.DEALER)`: closed after the test."""
    context: zmq.Context[Any] = zmq.Context()
    opened: list[Any] = []

    def new(kind: int) -> Any:
        opened.append(context.socket(kind))
        opened[-1].setsockopt(zmq.RCVTIMEO, 10_000)
        return opened[-1]

    yield new
    for one in opened:
        one.close(linger=0)
    context.term()


@pytest.fixture
def accept(make_stream: Make) -> Iterator[Callable[[Any], Stream]]:
    """`accept(socket)`: it connects, and a stream that is a ROUTER has shaken hands with it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accepted(other: Any) -> Stream:
            other.connect("tcp://{}:{}".format(*listener.getsockname()))
            stream = make_stream(listener.accept()[0])
            shaken(stream)
            return stream

        yield accepted


SIZES = [0, 255, 256, 8192, 100_000, LARGE]


@pytest.mark.parametrize("size", SIZES)
def test_a_dealer_of_libzmq_is_understood_and_understands(size: int, open_zmq: Any, accept: Any) -> None:
    dealer = open_zmq(zmq.DEALER)
    dealer.setsockopt(zmq.ROUTING_ID, b"robot")
    stream = accept(dealer)
    assert stream.peer == p.Ready(b"DEALER", b"robot")
    payload = np.random.default_rng(size).bytes(size)
    dealer.send_multipart([b"", b"e", payload])
    assert plain(received(stream)) == [b"", b"e", payload]
    stream.send([b"", b"answer", payload])
    while stream.unsent:
        stream.flush()
    assert dealer.recv_multipart() == [b"", b"answer", payload]


def test_a_req_of_libzmq_is_understood_and_understands(open_zmq: Any, accept: Any) -> None:
    req = open_zmq(zmq.REQ)
    stream = accept(req)
    req.send_multipart([b"e", b"p"])
    assert plain(received(stream)) == [b"", b"e", b"p"]
    stream.send([b"", b"answer", b""])
    assert req.recv_multipart() == [b"answer", b""]


@pytest.mark.parametrize("size", SIZES)
def test_a_router_of_libzmq_is_understood_and_understands(size: int, open_zmq: Any, make_stream: Make) -> None:
    router = open_zmq(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    stream = make_stream(socket.create_connection(("127.0.0.1", port)), b"DEALER", identity=b"robot")
    shaken(stream)
    payload = np.random.default_rng(size).bytes(size)
    stream.send([b"", b"e", payload])
    while stream.unsent:
        stream.flush()
    assert router.recv_multipart() == [b"robot", b"", b"e", payload]
    router.send_multipart([b"robot", b"", b"answer", payload])
    assert plain(received(stream)) == [b"", b"answer", payload]
    stream.ping()
    readable(stream)
    assert stream.read()
    assert stream.alive


def test_heartbeats_of_libzmq_keep_the_connection_up(open_zmq: Any, accept: Any) -> None:
    dealer = open_zmq(zmq.DEALER)
    for option, value in ((zmq.HEARTBEAT_IVL, 20), (zmq.HEARTBEAT_TIMEOUT, 2000), (zmq.HEARTBEAT_TTL, 2000)):
        dealer.setsockopt(option, value)
    stream = accept(dealer)
    pings = 0
    answer = p.pong_body

    def counted(body: bytes) -> bytes:
        nonlocal pings
        pings += 1
        return answer(body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "pong_body", counted)
        while pings < 10:
            readable(stream)
            stream.read()
            assert stream.next() is None
    dealer.send_multipart([b"", b"e", b"still there"])
    assert plain(received(stream)) == [b"", b"e", b"still there"]


# A machine that is gone


def test_the_system_misses_a_machine_that_is_gone_within_a_minute(make_stream: Make) -> None:
    # Not tried: that takes another machine. But two hours, the default, is what it must not be.
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as end:
        make_stream(end)
        assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        probes = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
        interval = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
        idle = end.getsockopt(
            socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", 0)
        )
        assert idle + probes * interval <= 60


def test_what_is_there_of_a_large_frame_is_read_when_its_beginning_is_looked_at(
    played: tuple[Stream, socket.socket],
) -> None:
    stream, end = played
    frames = [b"", b"e", bytes(60_000)]
    whole = b"".join(p.message(frames, 99))
    end.sendall(whole)
    readable(stream)
    assert stream.read()
    assert not stream.drained  # the first gulp was full
    assert plain(stream.next()) == frames
    end.sendall(whole[:50_000])
    readable(stream)
    assert stream.read()
    assert stream.next() is None
    assert stream.drained  # there is no more just now
    end.sendall(whole[50_000:])
    assert plain(received(stream)) == frames
