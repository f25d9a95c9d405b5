"""Sans-I/O state of a ZMTP connection: greeting, handshake, commands and frames, from bytes and to bytes.

It has no socket and no clock: `zmtp.stream` feeds it received bytes and sends the bytes that it returns.

    greeting (64 bytes, each way)  ->  READY (each way)  ->  messages, with PING and PONG between them

A frame is a byte of flags, its size in 1 or 8 bytes, and a body; a message is frames of which all but the last have the
flag MORE. https://rfc.zeromq.org/spec/37/
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from inferential.errors import InferentialError

Buffer = bytes | bytearray | memoryview
Frame = Buffer | list[Buffer]
"""The bytes of a frame: one buffer, or several that are sent one after another without a copy."""

GREETING_BYTES = 64
VERSION_BYTES = 11
"""The start of a greeting that is the same for every peer: signature and major version."""
HEAD_FRAMES = 2
"""The first frames of a message, which are read here and returned as bytes; the others are payload, and writable."""
HEAD_BYTES = 1024 * 1024
"""A larger one of them is returned as it was received: a copy of hundreds of megabytes takes long, and no envelope is
as large."""

MORE, LONG, COMMAND = 1, 2, 4
"""The flags of a frame."""
SHORT_BYTES = 255
"""The longest frame whose size takes one byte."""
_MECHANISM = slice(12, 32)  # of a greeting
_MAX_IDENTITY_BYTES = 255
_MAX_CONTEXT_BYTES = 16  # of a PING

PING, PONG, READY, ERROR = b"\4PING", b"\4PONG", b"\5READY", b"\5ERROR"
PING_BODY = PING + b"\0\0"
_HTTP = re.compile(rb"[A-Z]{3,7} [/*h]")

EXTENSIONS = b"X-Inferential-Cancels", b"2"
"""A property of READY by which a server says that it understands cancellations (1), and that it keeps what it owes to a
robot which comes back within the same life (2); other peers skip it."""
LIFE = b"X-Inferential-Life"
"""A property of READY by which a robot says that it is the same as before: random bytes, drawn once for each
`Connection`. One that restarted has others, so that it never gets what was for its former life."""
LIFE_BYTES = 16

COMPATIBLE_SOCKETS = {
    b"ROUTER": frozenset({b"DEALER", b"REQ", b"ROUTER"}),
    b"DEALER": frozenset({b"ROUTER", b"REP", b"DEALER"}),
}
"""The socket types that may connect to each type (ZMTP 3.1, section 5)."""


class ConnectionEnded(InferentialError):
    """The peer closed the connection, or it broke."""


class CutShort(ConnectionEnded):
    """The peer closed the connection during the handshake, after it had read what this end is."""


class ProtocolError(ConnectionEnded):
    """The peer broke a rule of ZMTP; the connection has to be closed."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What a handshake found out of the peer.

    Attributes:
        socket_type: such as DEALER.
        identity: as the peer says; of a client with a key, the name of the key.
        key: the client's long-term public key, which it has proven to hold; b"" without encryption.
        extensions: the value of `EXTENSIONS`; b"" of a peer that has none.
        life: the value of `LIFE`; b"" of a peer that has none.
    """

    socket_type: bytes
    identity: bytes
    key: bytes = b""
    extensions: bytes = field(default=b"", compare=False)
    life: bytes = field(default=b"", compare=False)

    @property
    def keeps_answers(self) -> bool:
        """Whether the peer is a server that keeps what it owes to a robot of the same life."""
        return self.extensions >= b"2"


class Discarded(enum.Enum):
    """Stands for discarded frames of a message that has more frames than are allowed."""

    PART = "part"
    """The message has more frames, which are discarded too."""
    MESSAGE = "message"
    """The message is complete."""


def greeting(mechanism: str = "NULL", *, as_server: bool = False) -> bytes:
    """Returns the greeting, which either end sends first; `as_server`: this end accepts, which CURVE wants to know."""
    name = mechanism.encode().ljust(20, b"\0")
    return b"\xff" + b"\0" * 8 + b"\x7f" + b"\3\1" + name + bytes((as_server,)) + b"\0" * 31


def check_greeting(data: bytes, oldest: int = 3) -> None:
    """Checks as much of the peer's greeting as was received.

    Args:
        data: the bytes.
        oldest: the least major version that is supported; that of ZMTP 2 is 1.

    Raises:
        ProtocolError: it is no greeting, or one of a version that is not supported.
    """
    if data[:1] not in (b"", b"\xff") or data[9:10] not in (b"", b"\x7f"):
        raise ProtocolError(f"peer does not speak ZMTP (ZeroMQ's protocol){_what_it_speaks(data)}")
    if data[10:11] not in (b"",) and data[10] < oldest:
        raise ProtocolError(f"peer speaks ZMTP {data[10]}; version 3 is supported, which libzmq has from 4.0 on")


def _what_it_speaks(data: bytes) -> str:
    """Returns what to do about a peer that begins in another way, as far as that is known; else ""."""
    if data.startswith((b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n")):
        return ": a proxy sends a header of its own (the PROXY protocol); turn that off for this port"
    if data.startswith(b"\x16\x03"):
        return ": it speaks TLS; robots encrypt by security.mode, and the page and gateways have ports of their own"
    if _HTTP.match(data):
        return ": it speaks HTTP; the page and the gateways have ports of their own"
    if data[1:2] == b"\0":
        return ": perhaps ZMTP 1, of libzmq 2; libzmq has version 2 from 3.0 on, version 3 from 4.0 on"
    return ""


def mechanism_of(data: bytes) -> str:
    """Returns the name of the mechanism in a complete greeting, such as NULL or CURVE."""
    return data[_MECHANISM].rstrip(b"\0").decode("ascii", "replace")


def supports_heartbeats(data: bytes) -> bool:
    """Returns whether the peer with this greeting supports PING and PONG, which are part of ZMTP 3.1 and later."""
    return data[10:12] >= b"\3\1"


def ready(socket_type: bytes, identity: bytes, life: bytes = b"") -> bytes:
    """Returns the READY command, which ends the handshake."""
    extra = ((LIFE, life),) if life else (EXTENSIONS,) if socket_type == b"ROUTER" else ()
    return command(READY + properties((b"Socket-Type", socket_type), (b"Identity", identity), *extra))


def read_ready(body: bytes, own_type: bytes) -> Ready:
    """Returns the properties of the peer's READY command.

    Args:
        body: the command.
        own_type: the type of our socket.

    Raises:
        ProtocolError: it is another command, malformed, or of a socket type that cannot connect to ours.
    """
    if body.startswith(ERROR):
        raise ProtocolError(f"peer refused the connection: {body[7:].decode('utf-8', 'replace')}")
    if not body.startswith(READY):
        raise ProtocolError("expected the READY command")
    return ready_of(read_properties(body[len(READY) :]), own_type)


def ready_of(properties: Mapping[bytes, bytes], own_type: bytes) -> Ready:
    """Returns what the properties of a peer say of it; they are those of READY, or of CURVE's INITIATE and READY.

    Raises:
        ProtocolError: its socket type cannot connect to ours, or its identity is too long.
    """
    socket_type, identity = properties.get(b"socket-type", b""), properties.get(b"identity", b"")
    if socket_type not in COMPATIBLE_SOCKETS[own_type]:
        shown = socket_type.decode("ascii", "replace")
        raise ProtocolError(f"peer is a {shown} socket, which cannot connect to a {own_type.decode()}")
    if len(identity) > _MAX_IDENTITY_BYTES:
        raise ProtocolError(f"identity of {len(identity)} bytes; at most {_MAX_IDENTITY_BYTES} are allowed")
    life = properties.get(LIFE.lower(), b"")
    extensions = properties.get(EXTENSIONS[0].lower(), b"")
    return Ready(socket_type, identity, extensions=extensions, life=life if len(life) == LIFE_BYTES else b"")


def properties(*named: tuple[bytes, bytes]) -> bytes:
    """Returns names and values as they are written in READY."""
    return b"".join(bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value for name, value in named)


def read_properties(data: bytes) -> dict[bytes, bytes]:
    """Returns the values of properties, by their names in lower case.

    Raises:
        ProtocolError: the data end within a property.
    """
    found = {}
    at = 0
    while at < len(data):
        name_end = at + 1 + data[at]
        value_at = name_end + 4
        end = value_at + int.from_bytes(data[name_end:value_at], "big")
        if value_at > len(data) or end > len(data):
            raise ProtocolError("READY ends within a property")
        found[data[at + 1 : name_end].lower()] = data[value_at:end]
        at = end
    return found


def command(body: bytes) -> bytes:
    """Returns a frame with a command: its name and its data."""
    return _head(COMMAND, len(body)) + body


def is_followed(data: bytes) -> bool:
    """Returns whether data begin with a whole short frame, and another frame has begun after it."""
    return len(data) > 2 and not data[0] & LONG and len(data) > 2 + data[1]


def ping() -> bytes:
    """Returns a PING command, without time to live and context."""
    return command(PING_BODY)


def pong(body: bytes) -> bytes:
    """Returns the PONG that answers a PING, with the same context."""
    return command(pong_body(body))


def pong_body(body: bytes) -> bytes:
    """Returns what a PONG command says to the PING with this body."""
    context_at = len(PING) + 2  # after the time to live
    return PONG + body[context_at : context_at + _MAX_CONTEXT_BYTES]


def ttl_s(body: bytes) -> float:
    """Returns for how long the sender of a PING waits for it to be received, in seconds; 0: it does not say."""
    return int.from_bytes(body[len(PING) : len(PING) + 2], "big") / 10


def _head(flags: int, size: int) -> bytes:
    if size <= SHORT_BYTES:
        return bytes((flags, size))
    return bytes((flags | LONG,)) + size.to_bytes(8, "big")


_LAST_HEADS = [_head(0, size) for size in range(SHORT_BYTES + 1)]
_NO_PAYLOAD = _LAST_HEADS[0]
_MORE_HEADS = [_head(MORE, size) for size in range(SHORT_BYTES + 1)]
_COMMON_HEADS = [_head(MORE, 0) + head for head in _MORE_HEADS]  # an empty frame, and the head of one after it


def message(frames: Sequence[Frame], join_below: int) -> list[Buffer]:
    """Returns a message as buffers to send one after another; those below `join_below` bytes are copied into one."""
    if len(frames) == 3:
        # Fast path for [empty, short envelope, payload], which almost all messages are: the same bytes at a fifth of
        # the cost.
        first, envelope, payload = frames
        size = len(envelope)
        if not first and size <= SHORT_BYTES and not isinstance(envelope, list) and not isinstance(payload, list):
            heads, size = _COMMON_HEADS[size], len(payload)
            if size < join_below:
                head = _LAST_HEADS[size] if size <= SHORT_BYTES else _head(0, size)
                return [b"".join((heads, envelope, head, payload))]
            return [b"".join((heads, envelope, _head(0, size))), payload]
    *others, last = frames
    parts: list[Buffer] = []
    small: list[Buffer] = []
    for frame in others:
        size = _size(frame)
        small.append(_MORE_HEADS[size] if size <= SHORT_BYTES else _head(MORE, size))
        _add(frame, parts, small, join_below)
    size = _size(last)
    small.append(_LAST_HEADS[size] if size <= SHORT_BYTES else _head(0, size))
    _add(last, parts, small, join_below)
    _join(small, parts)
    return parts


def messages_without_payload(
    envelopes: Sequence[bytes], write: Callable[[Sequence[Frame], int], list[Buffer]]
) -> list[Buffer]:
    """Returns messages [empty, envelope, empty] as buffers to send one after another; `write` is `message`, or what a
    connection with keys has in its place."""
    parts: list[Buffer] = []
    for envelope in envelopes:
        if len(envelope) <= SHORT_BYTES and write is message:  # the same bytes at a quarter of the cost
            parts += (_COMMON_HEADS[len(envelope)], envelope, _NO_PAYLOAD)
        else:
            parts += write((b"", envelope, b""), SHORT_BYTES)
    return parts


def _size(frame: Frame) -> int:
    return sum(map(len, frame)) if isinstance(frame, list) else len(frame)


def _add(frame: Frame, parts: list[Buffer], small: list[Buffer], join_below: int) -> None:
    for piece in frame if isinstance(frame, list) else (frame,):
        if len(piece) < join_below:
            small.append(piece)
        else:
            _join(small, parts)
            parts.append(piece)


def _join(small: list[Buffer], parts: list[Buffer]) -> None:
    joined = b"".join(small)
    if joined:  # no part is empty: when the last one is sent, the message is
        parts.append(joined)
    small.clear()
