"""Speaks the wire as a foreign client would: ZMTP frames and observations as bytes, for loads and faults.

It shares no code with `inferential.zmtp` or the robot SDK, so that a fault there is not repeated here, and it can send
what a library would refuse to: half a frame, a message without a delimiter, a greeting of nonsense.
(ZMTP 3.1, https://rfc.zeromq.org/spec/37/)
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np

from inferential.proto import FLOAT32, PROTOCOL_VERSION, QUEUE_ALL, QUEUE_LATEST, RAW, Observation

MORE, LONG, COMMAND = 1, 2, 4
GREETING_BYTES = 64
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
PING, PONG = b"\4PING", b"\4PONG"
PAYLOAD = np.arange(7, dtype=np.float32).tobytes()
_STAMP_NS = 2**60
"""A timestamp of as many bytes as today's, to be replaced by them."""


def frame(body: bytes, flags: int = 0) -> bytes:
    """Returns one frame."""
    if len(body) < 256:
        return bytes((flags, len(body))) + body
    return bytes((flags | LONG,)) + len(body).to_bytes(8) + body


def message(*bodies: bytes) -> bytes:
    """Returns a message of these frames."""
    return b"".join(frame(body, MORE) for body in bodies[:-1]) + frame(bodies[-1])


def ready(identity: bytes, socket_type: bytes = b"DEALER", life: bytes = b"") -> bytes:
    """Returns the command that ends the handshake; with the 16 bytes of a life the robot may come back within that."""
    properties = [(b"Socket-Type", socket_type), (b"Identity", identity)]
    properties += [(b"X-Inferential-Life", life)] if life else []
    body = b"".join(bytes((len(name),)) + name + len(value).to_bytes(4) + value for name, value in properties)
    return frame(b"\5READY" + body, COMMAND)


class Frames:
    """Splits a stream of bytes into messages and commands."""

    def __init__(self) -> None:
        self._data = b""
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> Iterator[list[bytes] | bytes]:
        """Yields each message as its frames, and each command as bytes, that is complete with this data."""
        data = self._data + data if self._data else data
        at, end = 0, len(data)
        while at + 2 <= end:
            flags, size, start = data[at], data[at + 1], at + 2
            if flags & LONG:
                if at + 9 > end:
                    break
                size, start = int.from_bytes(data[at + 1 : at + 9]), at + 9
            if start + size > end:
                break
            body, at = data[start : start + size], start + size
            if flags & COMMAND:
                yield body
                continue
            self._parts.append(body)
            if not flags & MORE:
                parts, self._parts = self._parts, []
                yield parts
        self._data = data[at:]


class Observations:
    """Writes the observations of one client for one model: a state of seven numbers.

    Args:
        client_id, model_id: of the client and of the model that it asks.
        queue: "latest" or "all".
        version: of the protocol; 0 is a client of the 1.x line, which sends no request ids.
    """

    def __init__(self, client_id: str, model_id: str, queue: str = "latest", version: int = PROTOCOL_VERSION) -> None:
        constant = Observation(model_id=model_id, protocol_version=version)
        constant.client.id, constant.client.type = client_id, "load"
        if version:
            constant.queue = QUEUE_LATEST if queue == "latest" else QUEUE_ALL
        constant.tensors.add(
            key="state", dtype=FLOAT32, shape=[7], byte_length=len(PAYLOAD), timestamp_ns=_STAMP_NS, encoding=RAW
        )
        stamp = Observation(timestamp_ns=_STAMP_NS).SerializeToString()[1:]
        self._parts = constant.SerializeToString().split(stamp)
        self._has_ids = version > 0

    def envelope(self, request_id: int, now_ns: int) -> bytes:
        """Returns the envelope of an observation made at `now_ns` by the wall clock."""
        news = Observation(timestamp_ns=now_ns, request_id=request_id if self._has_ids else 0).SerializeToString()
        return news[1:10].join(self._parts) + news

    def message(self, request_id: int, now_ns: int) -> bytes:
        """Returns the whole message."""
        return message(b"", self.envelope(request_id, now_ns), PAYLOAD)


def address_of(server: str) -> tuple[str, int]:
    """Returns host and port of tcp://HOST:PORT."""
    host, _, port = server.removeprefix("tcp://").rpartition(":")
    return host, int(port)


def connect(server: str, identity: bytes, timeout_s: float = 10.0, life: bytes = b"") -> tuple[socket.socket, Frames]:
    """Connects and shakes hands; returns the socket, which blocks, and what reads its frames.

    Not a byte is read beyond the handshake: what a robot that comes back is owed follows it at once.

    Raises:
        OSError: the server cannot be reached, refuses, or does not answer within `timeout_s`.
    """
    connected = socket.create_connection(address_of(server), timeout_s)
    try:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.sendall(GREETING + ready(identity, life=life))
        _read(connected, GREETING_BYTES)
        flags, size = _read(connected, 2)
        _read(connected, int.from_bytes(bytes((size,)) + _read(connected, 7)) if flags & LONG else size)
    except BaseException:
        connected.close()
        raise
    return connected, Frames()


def _read(connected: socket.socket, size: int) -> bytes:
    """Returns the next `size` bytes."""
    data = b""
    while len(data) < size:
        piece = connected.recv(size - len(data))
        if not piece:
            raise ConnectionError("the server closed the connection during the handshake")
        data += piece
    return data
