"""Two streams with keys, and a stream with keys and libzmq: who gets in, the reason each end gets, and what travels."""

from __future__ import annotations

import itertools
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
import zmq.auth
from fuzz.subjects import feed
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl import bindings
from zmq.utils import z85

from inferential.zmtp import ConnectionEnded, Stream, curve
from inferential.zmtp import protocol as p
from inferential.zmtp.boxes import BoxReader, BoxWire
from inferential.zmtp.curve_handshake import ClientCurveHandshake, ServerCurveHandshake, ServerKeys
from inferential.zmtp.handshake import Handshake, HandshakeError, NullHandshake

SERVER, CLIENT, STRANGER = (curve.key_pair(os.urandom) for _ in range(3))
NAMES = {CLIENT.public: "arm-01"}
Streams = Callable[..., tuple[Stream, Stream]]


def client(identity: bytes = b"arm-01", server_key: bytes = SERVER.public, keys: curve.KeyPair = CLIENT) -> Handshake:
    return ClientCurveHandshake(b"DEALER", identity, keys, server_key)


def server(*, required: bool = True) -> Handshake:
    return ServerCurveHandshake(b"ROUTER", ServerKeys(SERVER, NAMES.get, required))


def null_client() -> Handshake:
    return NullHandshake(b"DEALER", b"guest")


def null_server() -> Handshake:
    return NullHandshake(b"ROUTER", b"", accepting=True)


@pytest.fixture
def streams(pair: tuple[socket.socket, socket.socket]) -> Iterator[Streams]:
    """`streams(client, server)`: the two ends of a connection."""
    made: list[Stream] = []

    def make(robot: Handshake, accepting: Handshake) -> tuple[Stream, Stream]:
        made.append(Stream(pair[0], b"DEALER", handshake=robot))
        made.append(Stream(pair[1], b"ROUTER", max_frame_bytes=2_000_000, handshake=accepting))
        return made[0], made[1]

    yield make
    for stream in made:
        stream.close()


def shake(*ends: Stream) -> None:
    done = [False] * len(ends)
    for _ in range(1000):
        done = [end.handshake() for end in ends]
        if all(done):
            return
    raise AssertionError(f"the handshake does not end: {done}")


def message_at(end: Stream, other: Stream) -> list[p.Buffer]:
    for _ in range(10_000):
        other.flush()
        found = end.receive()
        if found is not None:
            assert isinstance(found, list)
            return found
    raise AssertionError("no message arrives")


def test_a_client_with_a_known_key_is_known_by_the_name_of_its_key(streams: Streams) -> None:
    robot, accepting = streams(client(identity=b"arm-02"), server())
    shake(robot, accepting)
    assert accepting.peer == p.Ready(b"DEALER", b"arm-01", CLIENT.public)
    assert robot.peer is not None
    assert robot.peer.socket_type == b"ROUTER"


def test_a_client_that_knows_its_server_is_understood_after_one_round_trip(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """HELLO goes with the greeting, and a message with INITIATE, before the server has said who it is."""
    before = p.Ready(b"ROUTER", b"", extensions=b"1")
    known = ClientCurveHandshake(b"DEALER", b"arm-01", CLIENT, SERVER.public, presumed=before)
    robot = Stream(pair[0], b"DEALER", handshake=known, presumed=True)
    accepting = Stream(pair[1], b"ROUTER", handshake=server())
    assert not accepting.handshake()  # it reads the greeting and HELLO, and answers both
    assert robot.handshake()
    assert robot.peer is before
    for text in (b"first", bytes(50_000)):
        robot.send([b"", b"envelope", text])
    assert accepting.handshake()
    assert accepting.peer == p.Ready(b"DEALER", b"arm-01", CLIENT.public)
    assert message_at(accepting, robot)[2] == b"first"
    assert message_at(accepting, robot)[2] == bytes(50_000)
    accepting.send([b"", b"envelope", b"answer"])
    robot.ping()
    assert message_at(robot, accepting)[2] == b"answer"
    assert robot.peer is not before
    assert robot.peer.extensions
    robot.close()
    accepting.close()


@pytest.mark.parametrize(
    "accepting", [lambda: ServerCurveHandshake(b"ROUTER", ServerKeys(SERVER, {}.get, required=True)), null_server]
)
def test_a_server_that_is_presumed_wrongly_is_found_out(
    accepting: Callable[[], Handshake], pair: tuple[socket.socket, socket.socket]
) -> None:
    known = ClientCurveHandshake(b"DEALER", b"arm-01", CLIENT, SERVER.public, presumed=p.Ready(b"ROUTER", b""))
    robot = Stream(pair[0], b"DEALER", handshake=known, presumed=True)
    other = Stream(pair[1], b"ROUTER", handshake=accepting())

    def go_on() -> None:
        for _ in range(1000):
            other.handshake()
            if robot.handshake():
                robot.send([b"", b"envelope", b"payload"])  # with it INITIATE leaves
                robot.receive()

    with pytest.raises(ConnectionEnded):
        go_on()
    robot.close()
    other.close()


@pytest.mark.parametrize("size", [0, 1, 220, 221, 222, 255, 256, 2047, 2048, 5000, 150_000, 1_500_000])
def test_messages_of_all_sizes_arrive_whole_both_ways(size: int, streams: Streams) -> None:
    robot, accepting = streams(client(), server())
    shake(robot, accepting)
    body = random.Random(size).randbytes(size)
    for end, other in ((accepting, robot), (robot, accepting)):
        for _ in range(2):
            other.send([b"", b"envelope", [body[:10], body[10:]]])
            frames = message_at(end, other)
            assert [bytes(frame) for frame in frames] == [b"", b"envelope", body]
            assert not memoryview(frames[2]).readonly


def test_nothing_of_a_message_can_be_read_on_the_way(pair: tuple[socket.socket, socket.socket]) -> None:
    robot = Stream(pair[0], b"DEALER", handshake=client())
    listening, relay = socket.socketpair()
    accepting = Stream(listening, b"ROUTER", handshake=server())
    seen = b""
    pair[1].setblocking(False)
    relay.setblocking(False)
    sent = False
    for _ in range(200):
        for here, there in ((pair[1], relay), (relay, pair[1])):
            try:
                data = here.recv(65536)
            except BlockingIOError:
                continue
            seen += data
            there.sendall(data)
        if robot.handshake() & accepting.handshake() and not sent:
            sent = True
            robot.send([b"", b"arm-01", b"the cup stands at 0.3, 0.2"])
            robot.ping()
    assert sent
    assert accepting.receive() == [b"", b"arm-01", b"the cup stands at 0.3, 0.2"]
    assert b"cup" not in seen
    assert b"arm-01" not in seen
    assert b"PING" not in seen
    robot.close()
    accepting.close()
    relay.close()


def test_heartbeats_travel_in_boxes_and_are_answered(streams: Streams) -> None:
    robot, accepting = streams(client(), server())
    shake(robot, accepting)
    robot.ping()
    assert not robot.alive
    assert accepting.receive() is None
    robot.receive()
    assert robot.alive


def test_a_frame_above_the_limit_ends_the_connection_before_memory_is_taken(streams: Streams) -> None:
    robot, accepting = streams(client(), server())
    shake(robot, accepting)
    robot.send([b"", b"e", bytes(2_000_001)])
    with pytest.raises(ConnectionEnded, match="frame of 2000001 bytes; at most 2000000 are allowed"):
        message_at(accepting, robot)


def test_a_message_of_too_many_frames_is_discarded_and_the_next_one_arrives(streams: Streams) -> None:
    robot, accepting = streams(client(), server())
    shake(robot, accepting)
    robot.send([b""] * 5)
    robot.send([b"", b"e", b"p"])
    found = accepting.receive()
    assert found is p.Discarded.MESSAGE
    assert accepting.receive() == [b"", b"e", b"p"]


def refused(robot: Stream, accepting: Stream) -> tuple[ConnectionEnded, ConnectionEnded]:
    """Returns the error of each end of a handshake that fails."""
    errors: list[ConnectionEnded | None] = [None, None]
    for _ in range(1000):
        for number, end in enumerate((robot, accepting)):
            if errors[number] is None:
                try:
                    end.handshake()
                except ConnectionEnded as error:
                    errors[number] = error
                    end.close()
        if errors[0] is not None and errors[1] is not None:
            return errors[0], errors[1]
    raise AssertionError(f"it does not fail: {errors}")


@pytest.mark.parametrize(
    ("robot", "accepting", "to_robot", "to_server"),
    [
        (null_client, server, "give server_key= and secret_key=", "the client has no keys"),
        (client, null_server, "leave out server_key=", "the client has keys, and this server takes none"),
        (
            lambda: client(server_key=STRANGER.public),
            server,
            "the server holds another key than server_key=",
            "expects another server key",
        ),
        (lambda: client(keys=STRANGER), server, "no client has the key .*: it was revoked", "no client has the key"),
    ],
    ids=["no keys", "server without keys", "another server key", "unknown key"],
)
def test_ends_that_cannot_agree_both_learn_what_to_change(
    robot: Callable[[], Handshake],
    accepting: Callable[[], Handshake],
    to_robot: str,
    to_server: str,
    streams: Streams,
) -> None:
    at_robot, at_server = refused(*streams(robot(), accepting()))
    with pytest.raises(ConnectionEnded, match=to_robot):
        raise at_robot
    with pytest.raises(HandshakeError, match=to_server):
        raise at_server


def test_a_server_with_optional_keys_takes_clients_with_and_without(streams: Streams) -> None:
    robot, accepting = streams(null_client(), server(required=False))
    shake(robot, accepting)
    assert accepting.peer == p.Ready(b"DEALER", b"guest", b"")
    robot.send([b"", b"e", b"p" * 5000])
    assert message_at(accepting, robot)[2] == b"p" * 5000


def test_a_server_with_optional_keys_encrypts_for_those_with_keys(streams: Streams) -> None:
    robot, accepting = streams(client(), server(required=False))
    shake(robot, accepting)
    assert accepting.peer is not None
    assert accepting.peer.key == CLIENT.public


def test_a_client_that_is_refused_has_not_read_the_servers_mechanism(pair: tuple[socket.socket, socket.socket]) -> None:
    """For libzmq's would never come back, even after it is given keys and the server is set up anew."""
    accepting = Stream(pair[0], b"ROUTER", handshake=server())
    pair[1].sendall(p.greeting())
    with pytest.raises(HandshakeError):
        accepting.handshake()
    accepting.close()
    assert pair[1].recv(1000) == p.greeting()[: p.VERSION_BYTES]


@pytest.mark.parametrize("cut", [0, 1, 10, 12, 63, 64, 66, 100, 265])
def test_a_handshake_that_stops_half_way_takes_no_memory_and_ends_in_an_error(
    cut: int, pair: tuple[socket.socket, socket.socket]
) -> None:
    accepting = Stream(pair[0], b"ROUTER", handshake=server())
    made = curve.CurveClient(CLIENT, SERVER.public, b"", os.urandom)
    pair[1].sendall((p.greeting("CURVE") + p.command(made.hello()))[:cut])
    assert not accepting.handshake()
    pair[1].close()
    with pytest.raises(ConnectionEnded):
        accepting.handshake()
    assert accepting.peer is None
    accepting.close()


@pytest.mark.parametrize("said", [b"\0\3abc", b"\2" + (1 << 30).to_bytes(8), p.command(p.READY), b"\4\0"])
def test_a_message_or_another_command_before_the_keys_is_an_error(
    said: bytes, pair: tuple[socket.socket, socket.socket]
) -> None:
    accepting = Stream(pair[0], b"ROUTER", max_frame_bytes=1 << 31, handshake=server())
    pair[1].sendall(p.greeting("CURVE") + said)
    with pytest.raises(p.ProtocolError):
        accepting.handshake()
    accepting.close()


def sessions() -> tuple[curve.Session, curve.Session]:
    shared = bindings.crypto_box_beforenm(SERVER.public, CLIENT.secret)
    one, other = b"CurveZMQMESSAGEC", b"CurveZMQMESSAGES"
    return curve.Session(shared, one, other, 2, 1), curve.Session(shared, other, one, 1, 2)


frames_of_messages = st.lists(
    st.lists(st.integers(0, 5000).map(lambda size: random.Random(size).randbytes(size)), min_size=1, max_size=5),
    min_size=1,
    max_size=4,
)


@given(messages=frames_of_messages, cuts=st.lists(st.integers(0, 30_000), max_size=6))
@settings(deadline=None, max_examples=60)
def test_boxes_are_read_the_same_however_their_bytes_come(messages: list[list[bytes]], cuts: list[int]) -> None:
    sender, receiver = sessions()
    wire = BoxWire(sender, None, 3)
    data = b"".join(bytes(part) for one in messages for part in (*wire.message(one, 100), wire.command(p.PING_BODY)))
    reader = BoxReader(receiver, None, 3)
    found: list[object] = []
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, stop in itertools.pairwise(edges):
        for _ in feed(reader, data[start:stop]):
            while (one := reader.next()) is not None:
                found.append([bytes(frame) for frame in one] if isinstance(one, list) else one)
    expected: list[object] = []
    for one in messages:
        expected += [one if len(one) <= 3 else p.Discarded.MESSAGE, p.PING_BODY]
    assert found == expected


def test_a_box_that_is_half_received_is_abandoned_with_its_message() -> None:
    sender, receiver = sessions()
    data = b"".join(bytes(part) for part in BoxWire(sender, None, 3).message([b"", b"e", bytes(100_000)], 100))
    reader = BoxReader(receiver, None, 3)
    reader.reserve = lambda size: True
    for _ in feed(reader, data[:-1]):
        assert reader.next() is None
    assert reader.space is not None
    reader.abandon()
    assert (reader.space, reader.reserve, reader.next()) == (None, None, None)


# Against libzmq


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as made:
        yield made


def connect(port: int, handshake: Handshake) -> Stream:
    return Stream(socket.create_connection(("127.0.0.1", port)), b"DEALER", handshake=handshake)


def wait_for(stream: Stream) -> list[p.Buffer]:
    """The next message of a peer in another thread; shakes hands first."""
    import select

    for _ in range(1000):
        select.select([stream], [stream] if stream.unsent else [], [], 5)
        stream.flush()
        if stream.peer is None and not stream.handshake():
            continue
        found = stream.receive()
        if isinstance(found, list):
            return found
    raise AssertionError("no message arrives")


def test_our_stream_speaks_with_a_libzmq_router_that_checks_keys(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    from zmq.auth.thread import ThreadAuthenticator

    from inferential.zmtp.certificates import write_certificates

    write_certificates(tmp_path, "arm-01", CLIENT.public, CLIENT.secret)
    checks = ThreadAuthenticator(context)
    checks.start()
    checks.configure_curve(domain="robots", location=str(tmp_path))
    router = context.socket(zmq.ROUTER)
    router.curve_server, router.curve_secretkey, router.zap_domain = True, z85.encode(SERVER.secret), b"robots"
    port = router.bind_to_random_port("tcp://127.0.0.1")
    sizes = [0, 1, 221, 222, 3000, 200_000]

    def echo() -> None:
        for _ in sizes:
            if router.poll(10_000):
                router.send_multipart(router.recv_multipart())

    thread = threading.Thread(target=echo)
    thread.start()
    stream = connect(port, client())
    try:
        while stream.peer is None and not stream.handshake():
            pass
        for size in sizes:
            stream.send([b"", b"e", bytes(size)])
            assert [bytes(one) for one in wait_for(stream)] == [b"", b"e", bytes(size)]
    finally:
        stream.close()
        thread.join(60)
        router.close()
        checks.stop()


def test_a_libzmq_dealer_speaks_with_our_stream(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    dealer = context.socket(zmq.DEALER)
    dealer.identity, dealer.linger, dealer.heartbeat_ivl = b"another name", 0, 50
    dealer.curve_serverkey = z85.encode(SERVER.public)
    dealer.curve_publickey, dealer.curve_secretkey = z85.encode(CLIENT.public), z85.encode(CLIENT.secret)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dealer.connect(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        accepting = Stream(listener.accept()[0], b"ROUTER", handshake=server(required=False))
        for size in (0, 221, 222, 3000, 200_000):
            dealer.send_multipart([b"", b"e", bytes(size)])
            assert [bytes(one) for one in wait_for(accepting)] == [b"", b"e", bytes(size)]
            accepting.send([b"", b"e", bytes(size)])
            assert dealer.poll(60_000)
            assert dealer.recv_multipart() == [b"", b"e", bytes(size)]
        assert accepting.peer is not None
        assert accepting.peer.identity == b"arm-01"
        accepting.close()
        dealer.close()
