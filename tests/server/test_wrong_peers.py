"""Whatever a peer does wrong, the operator reads it: once a minute for each peer and reason, with a count."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import zmq
from tests.server.conftest import Gate

from inferential import notices
from inferential.proto import FLOAT32, QUEUE_ALL, RAW, Client, Observation, Tensor
from inferential.zmtp import protocol as p

Say = Callable[[str], None]


def observation(number: int = 1, client: str = "arm", **fields: Any) -> bytes:
    given: dict[str, Any] = {"model_id": "m", **fields}
    message = Observation(client=Client(id=client), request_id=number, protocol_version=2, queue=QUEUE_ALL, **given)
    return message.SerializeToString()


@contextmanager
def socket_of(address: str, kind: int = zmq.DEALER, **options: Any) -> Iterator[zmq.Socket[bytes]]:
    """A socket of libzmq."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made = context.socket(kind)
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.RECONNECT_IVL, 20)
    for name, value in {"IDENTITY": b"arm", **options}.items():
        made.setsockopt(getattr(zmq, name), value)
    made.connect(address)
    try:
        yield made
    finally:
        made.close()
        context.term()


@contextmanager
def connection_to(address: str, data: bytes) -> Iterator[socket.socket]:
    """A plain connection that says this."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as made:
        made.sendall(data)
        yield made


@dataclass(frozen=True)
class Wrong:
    """Something that a peer does wrong.

    Attributes:
        says: what the log says of it.
        frames: messages of a DEALER, each sent twice.
        kind, options: of the socket.
        data: what a plain connection sends; made twice.
        config: of the server.
    """

    says: str
    frames: tuple[tuple[bytes, ...], ...] = ()
    kind: int = zmq.DEALER
    options: dict[str, Any] = field(default_factory=dict)
    data: bytes = b""
    config: dict[str, Any] = field(default_factory=dict)


def sent(*frames: bytes, says: str, **config: Any) -> Wrong:
    return Wrong(says, (frames,), config=config)


def lie(**fields: Any) -> bytes:
    tensor = Tensor(key="x", dtype=FLOAT32, shape=[2], byte_length=8, encoding=RAW)
    for name, value in fields.items():
        setattr(tensor, name, value)
    return observation(tensors=[tensor])


HELLO = p.greeting() + p.ready(b"DEALER", b"arm")
FAR_ABOVE = b"".join(bytes(part) for part in p.message([b"", observation(), bytes(9000)], 10_000))
LIMIT = {"max_payload_bytes": 4096}
FEW = {"max_queue_size": 1, "overflow_policy": "reject_newest"}
KEYS = {"CURVE_SERVERKEY": b"rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"}
KEYS |= {
    "CURVE_PUBLICKEY": b"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID",
    "CURVE_SECRETKEY": b"D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs",
}

WRONGS = {
    "no protobuf": sent(b"", b"\xff\xff\xff", b"", says="an observation is invalid: Failed to decode"),
    "a tensor that is not there": sent(b"", lie(), b"", says="exceeds payload size 0"),
    "no model": sent(b"", observation(model_id=""), b"", says="Missing model_id"),
    "above the limit": sent(b"", observation(), bytes(5000), says="5000 bytes", observations=LIMIT),
    "far above the limit": Wrong(
        "frame of 9000 bytes; at most", data=HELLO + FAR_ABOVE, config={"observations": LIMIT}
    ),
    "the id of another": sent(b"", observation(client="leg"), b"", says="is not the identity of the connection"),
    "an unknown model": sent(b"", observation(model_id="n"), b"", says="(unknown_model): no model 'n'; there is: m"),
    "a full queue": Wrong(
        "(queue_full): the queue is full (1 requests wait)",
        ((b"", observation(), b""),) * 3,
        config={"scheduling": FEW},
    ),
    "too late": Wrong(
        "(ttl): it waited", ((b"", observation(), b""),) * 2, config={"scheduling": {"request_ttl_ms": 1}}
    ),
    "not accepted": sent(b"", observation(), b"", says="'arm' is not accepted", clients={"accept_unknown": False}),
    "no delimiter": sent(observation(), b"", says="the empty delimiter is missing"),
    "no payload": sent(b"", observation(), says="the payload is missing"),
    "a proxy on the way": sent(b"id", b"", observation(), b"", says="each proxy on the way adds one"),
    "a PUB socket": Wrong("other than DEALER, REQ and ROUTER", kind=zmq.PUB),
    "a REP socket": Wrong("other than DEALER, REQ and ROUTER", kind=zmq.REP),
    "a PAIR socket": Wrong("other than DEALER, REQ and ROUTER", kind=zmq.PAIR),
    "a password": Wrong("requires mechanism PLAIN", options={"PLAIN_USERNAME": b"arm", "PLAIN_PASSWORD": b"x"}),
    "keys where none are taken": Wrong("the client has keys, and this server takes none", options=KEYS),
    "ZMTP 1": Wrong("perhaps ZMTP 1, of libzmq 2", data=b"\x01\x00" + bytes(20)),
    "a SUB socket that says so first": Wrong("peer is a SUB socket", data=p.greeting() + p.ready(b"SUB", b"arm")),
    "ZMTP 2 of another kind": Wrong("peer is a PUB socket", data=b"\xff" + bytes(8) + b"\x7f\x01\x01\x00\x00"),
    "HTTP": Wrong("it speaks HTTP", data=b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    "TLS": Wrong("it speaks TLS", data=b"\x16\x03\x01" + bytes(60)),
    "the PROXY protocol": Wrong("a proxy sends a header of its own", data=b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n"),
    "a frame of nonsense": Wrong("has invalid flags", data=HELLO + b"\xf0\x01\x00" + bytes(10)),
    "a huge frame": Wrong("at most", data=HELLO + b"\x02" + struct.pack(">Q", 1 << 50)),
}


@pytest.mark.parametrize("name", WRONGS)
async def test_what_a_peer_does_wrong_is_logged_once_a_minute_with_a_count(
    name: str, serve: Any, gate: Gate, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = WRONGS[name]
    caplog.set_level(logging.INFO, "inferential")

    async def until(count: int) -> list[str]:
        async with asyncio.timeout(60):
            while len(lines := [line for line in caplog.messages if wrong.says in line]) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        return lines

    def do() -> contextlib.ExitStack:
        """Does it several times, as such peers do."""
        stack = contextlib.ExitStack()
        for _ in range(1 if wrong.frames else 3):
            if wrong.data:
                stack.enter_context(connection_to(server.address, wrong.data))
                continue
            peer = stack.enter_context(socket_of(server.address, wrong.kind, **wrong.options))
            for frames in wrong.frames * 3:
                peer.send_multipart(frames)
        return stack

    async with serve({"m": gate}, wrong.config) as server:
        with await asyncio.to_thread(do):
            await until(1)
            await asyncio.sleep(0.03)
            assert len(await until(1)) == 1
        monkeypatch.setattr(notices, "PERIOD_S", 0.0)  # a minute later
        with await asyncio.to_thread(do):
            assert "more times in the last" in (await until(2))[1]
        gate.let(1000)


async def test_a_client_that_makes_up_models_takes_one_line_of_the_log(serve: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "inferential")
    async with serve({"m": lambda observation: observation}) as server:

        def ask() -> None:
            with socket_of(server.address) as peer:
                for number in range(1, 101):
                    peer.send_multipart([b"", observation(number, model_id=f"made up {number}"), b""])
                for _ in range(100):
                    peer.recv_multipart()

        await asyncio.to_thread(ask)
    assert len([line for line in caplog.messages if "was refused (unknown_model)" in line]) == 1
