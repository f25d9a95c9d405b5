"""CURVE's handshake and boxes, against libzmq at either end and against what a bad network or peer sends."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from zmq.utils import z85

from inferential.zmtp import ProtocolError, curve
from inferential.zmtp import protocol as p
from inferential.zmtp.reader import Reader

SERVER = curve.key_pair(os.urandom)
CLIENT = curve.key_pair(os.urandom)


def accept_all(client_key: bytes) -> None:
    """Authorizes any client."""


def client(server_key: bytes = SERVER.public, keys: curve.KeyPair = CLIENT) -> curve.CurveClient:
    return curve.CurveClient(keys, server_key, b"of the client", os.urandom)


def server(authorize: Callable[[bytes], None] = accept_all, keys: curve.KeyPair = SERVER) -> curve.CurveServer:
    return curve.CurveServer(keys, b"of the server", os.urandom, authorize)


def established() -> tuple[curve.Session, curve.Session]:
    one, other = client(), server()
    initiate = one.receive(other.receive(one.hello()))
    assert initiate is not None
    assert one.receive(other.receive(initiate)) is None
    assert one.session is not None
    assert other.session is not None
    return one.session, other.session


def test_both_ends_see_the_others_metadata_and_the_server_the_clients_key() -> None:
    one, other = client(), server()
    initiate = one.receive(other.receive(one.hello()))
    assert initiate is not None
    one.receive(other.receive(initiate))
    assert (one.peer_metadata, other.peer_metadata) == (b"of the server", b"of the client")
    assert other.client_key == CLIENT.public
    assert one.state is other.state is curve.State.ESTABLISHED


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=3000)), max_size=5))
@settings(deadline=None)
def test_frames_arrive_as_they_were_sealed_in_both_directions(frames: list[tuple[int, bytes]]) -> None:
    one, other = established()
    for sender, receiver in ((one, other), (other, one)):
        for flags, body in frames:
            sealed = sender.seal(flags, body)
            assert len(sealed) == len(body) + curve.OVERHEAD_BYTES
            assert receiver.open(sealed) == (flags, body)


def test_a_message_that_is_sent_again_ends_the_connection() -> None:
    one, other = established()
    sealed = one.seal(0, b"observation")
    other.open(sealed)
    with pytest.raises(ProtocolError, match="repeated or came out of order"):
        other.open(sealed)


def test_messages_in_another_order_end_the_connection() -> None:
    one, other = established()
    first, second = one.seal(0, b"1"), one.seal(0, b"2")
    other.open(second)
    with pytest.raises(ProtocolError, match="repeated or came out of order"):
        other.open(first)


def test_a_message_cannot_be_sent_back_to_its_sender() -> None:
    one, _ = established()
    with pytest.raises(ProtocolError, match="cannot be opened"):
        one.open(one.seal(0, b"observation"))


def test_a_message_of_another_connection_cannot_be_opened() -> None:
    one, _ = established()
    _, stranger = established()
    with pytest.raises(ProtocolError, match="cannot be opened"):
        stranger.open(one.seal(0, b"observation"))


def test_a_message_that_failed_to_open_does_not_move_the_nonce() -> None:
    one, other = established()
    sealed = bytearray(one.seal(0, b"observation"))
    sealed[-1] ^= 1
    with pytest.raises(ProtocolError):
        other.open(bytes(sealed))
    sealed[-1] ^= 1
    assert other.open(bytes(sealed)) == (0, b"observation")


def test_a_client_that_expects_another_server_key_is_refused_with_that_reason() -> None:
    other_key = curve.key_pair(os.urandom).public
    with pytest.raises(ProtocolError, match="expects another server key"):
        server().receive(client(server_key=other_key).hello())


def test_a_server_without_the_expected_key_cannot_pose_as_it() -> None:
    """It has its own welcome to give, and none that a client of another server can open."""
    impostor_keys = curve.key_pair(os.urandom)
    welcome = server(keys=impostor_keys).receive(client(server_key=impostor_keys.public).hello())
    one = client()
    one.hello()
    with pytest.raises(ProtocolError, match="holds another key than server_key"):
        one.receive(welcome)


def test_a_client_that_is_not_authorized_is_refused_before_it_is_established() -> None:
    def refuse(client_key: bytes) -> None:
        raise ProtocolError(f"no client has the key {client_key.hex()}")

    one, other = client(), server(refuse)
    initiate = one.receive(other.receive(one.hello()))
    assert initiate is not None
    with pytest.raises(ProtocolError, match=CLIENT.public.hex()):
        other.receive(initiate)
    assert other.session is None


def test_a_client_cannot_name_a_key_that_it_does_not_hold() -> None:
    stolen = curve.KeyPair(CLIENT.public, curve.key_pair(os.urandom).secret)
    one, other = client(keys=stolen), server()
    initiate = one.receive(other.receive(one.hello()))
    assert initiate is not None
    with pytest.raises(ProtocolError, match="does not hold the key"):
        other.receive(initiate)


def test_an_initiate_of_one_connection_opens_no_other() -> None:
    one, first, second = client(), server(), server()
    hello = one.hello()
    second.receive(hello)
    initiate = one.receive(first.receive(hello))
    assert initiate is not None
    with pytest.raises(ProtocolError, match="cookie of another connection"):
        second.receive(initiate)


def test_a_server_that_refuses_says_why() -> None:
    one = client()
    one.hello()
    with pytest.raises(ProtocolError, match="refused the connection: 400"):
        one.receive(b"\5ERROR\x03400")


@pytest.mark.parametrize("end", ["client", "server"])
@given(data=st.data())
@settings(deadline=None)
def test_what_is_no_handshake_ends_in_a_protocol_error(end: str, data: st.DataObject) -> None:
    """Any bytes, and true commands that are changed in one place, cut or made longer, at each step."""
    one, other = client(), server()
    commands: list[bytes] = [one.hello()]
    receivers: list[Any] = [other]
    if data.draw(st.booleans(), label="second step"):
        commands = [other.receive(commands[0])]
        receivers = [one]
        if end == "server":
            initiate = one.receive(commands[0])
            assert initiate is not None
            commands, receivers = [initiate], [other]
    true, receiver = commands[0], receivers[0]
    kind = data.draw(st.sampled_from(["bytes", "changed", "cut", "longer"]))
    if kind == "bytes":
        spoilt = data.draw(st.binary(max_size=400))
    elif kind == "changed":
        at = data.draw(st.integers(0, len(true) - 1))
        spoilt = true[:at] + bytes((true[at] ^ data.draw(st.integers(1, 255)),)) + true[at + 1 :]
    elif kind == "cut":
        spoilt = true[: data.draw(st.integers(0, len(true) - 1))]
    else:
        spoilt = true + data.draw(st.binary(min_size=1, max_size=300))
    padding_of_hello = kind == "changed" and true.startswith(curve.HELLO) and 8 <= at < 80
    if padding_of_hello:  # which carries nothing, and is not authenticated
        receiver.receive(spoilt)
        return
    with pytest.raises(ProtocolError):
        receiver.receive(spoilt)
    assert receiver.session is None


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_bytes_that_are_no_box_end_in_a_protocol_error(noise: bytes) -> None:
    _, other = established()
    for message in (noise, curve.MESSAGE + noise):
        with pytest.raises(ProtocolError):
            other.open(message)


@pytest.mark.parametrize("weak", [bytes(32), b"\1" + bytes(31)])
def test_a_public_key_that_makes_every_secret_the_same_is_refused(weak: bytes) -> None:
    hello = bytearray(client().hello())
    hello[80:112] = weak
    with pytest.raises(ProtocolError):
        server().receive(bytes(hello))


def test_commands_after_the_handshake_are_refused() -> None:
    one, other = client(), server()
    hello = one.hello()
    with pytest.raises(ProtocolError, match="has begun"):
        one.hello()
    other.receive(hello)
    with pytest.raises(ProtocolError, match="expected INITIATE"):
        other.receive(hello)


def test_a_secret_key_is_not_shown() -> None:
    assert CLIENT.secret.hex() not in repr(CLIENT)
    assert repr(CLIENT.secret) not in repr(CLIENT)


# Against libzmq


def greeting(*, as_server: bool) -> bytes:
    return b"\xff" + bytes(8) + b"\x7f\3\1" + curve.GREETING_NAME + bytes((as_server,)) + bytes(31)


def properties(socket_type: bytes, identity: bytes) -> bytes:
    parts = ((b"Socket-Type", socket_type), (b"Identity", identity))
    return b"".join(bytes((len(name),)) + name + len(value).to_bytes(4) + value for name, value in parts)


class Wire:
    """A blocking connection that speaks frames, for a peer that is libzmq."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        connected.settimeout(60)
        self._reader = Reader(None, 3)

    def greet(self, *, as_server: bool) -> bytes:
        self._socket.sendall(greeting(as_server=as_server))
        return self.exactly(p.GREETING_BYTES)

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            assert more
            data += more
        return data

    def command(self, body: bytes) -> None:
        self._socket.sendall(p.command(body))

    def frame(self, body: bytes) -> None:
        head = bytes((0, len(body))) if len(body) < 256 else b"\2" + len(body).to_bytes(8)
        self._socket.sendall(head + body)

    def next(self) -> tuple[int, bytes]:
        flags = self.exactly(1)[0]
        size = int.from_bytes(self.exactly(8 if flags & 2 else 1))
        return flags, self.exactly(size)


SIZES = [0, 1, 64, 221, 222, 223, 70_000, 1_000_000]


def body_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as made:
        yield made


@contextmanager
def answering(router: zmq.Socket[bytes], count: int) -> Iterator[None]:
    """A libzmq ROUTER that sends back what it gets, in a thread."""

    def serve() -> None:
        for _ in range(count):
            router.send_multipart(router.recv_multipart())

    thread = threading.Thread(target=serve)
    thread.start()
    yield
    thread.join(60)


def test_our_client_speaks_with_a_libzmq_server(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    router = context.socket(zmq.ROUTER)
    router.curve_server = True
    router.curve_secretkey = z85.encode(SERVER.secret)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    with closing(router), answering(router, len(SIZES)), socket.create_connection(("127.0.0.1", port)) as connected:
        wire = Wire(connected)
        assert wire.greet(as_server=False)[12:32] == curve.GREETING_NAME
        one = curve.CurveClient(CLIENT, SERVER.public, properties(b"DEALER", b"arm"), os.urandom)
        wire.command(one.hello())
        initiate = one.receive(wire.next()[1])
        assert initiate is not None
        wire.command(initiate)
        assert one.receive(wire.next()[1]) is None
        assert b"ROUTER" in one.peer_metadata
        assert one.session is not None
        for size in SIZES:
            wire.frame(one.session.seal(curve.MORE, b""))
            wire.frame(one.session.seal(0, body_of(size)))
            assert one.session.open(wire.next()[1]) == (curve.MORE, b"")
            assert one.session.open(wire.next()[1]) == (0, body_of(size))


def test_our_server_speaks_with_a_libzmq_client(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    dealer = context.socket(zmq.DEALER)
    dealer.identity = b"arm"
    dealer.curve_serverkey = z85.encode(SERVER.public)
    dealer.curve_publickey, dealer.curve_secretkey = z85.encode(CLIENT.public), z85.encode(CLIENT.secret)
    with closing(dealer), listener:
        dealer.connect(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        for size in SIZES:
            dealer.send(body_of(size))
        connected, _ = listener.accept()
        with connected:
            wire = Wire(connected)
            wire.greet(as_server=True)
            other = curve.CurveServer(SERVER, properties(b"ROUTER", b""), os.urandom, accept_all)
            wire.command(other.receive(wire.next()[1]))
            wire.command(other.receive(wire.next()[1]))
            assert other.client_key == CLIENT.public
            assert b"arm" in other.peer_metadata
            assert other.session is not None
            for size in SIZES:
                assert other.session.open(wire.next()[1]) == (0, body_of(size))
                wire.frame(other.session.seal(0, body_of(size)))
                assert dealer.poll(60_000)
                assert dealer.recv() == body_of(size)
