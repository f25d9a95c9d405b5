"""Sans-I/O state of a ZMTP connection: greeting, handshake, commands and frames, from bytes and to bytes.

It has no socket and no clock: `zmtp.stream` feeds it received bytes and sends the bytes that it returns.

    greeting (64 bytes, each way)  ->  READY (each way)  ->  messages, with PING and PONG between them

A frame is a byte of flags, its size in 1 or 8 bytes, and a body; a message is frames of which all but the last have the
flag MORE. https://rfc.zeromq.org/spec/37/
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inferential.errors import InferentialError

Buffer = bytes | bytearray | memoryview
Frame = Buffer | list[Buffer]
"""The bytes of a frame: one buffer, or several that are sent one after another without a copy."""

GREETING_BYTES = 64
VERSION_BYTES = 12
"""The start of a greeting that is the same for every mechanism: signature and version."""
HEAD_FRAMES = 2
"""The first frames of a message, which are read here and returned as bytes; the others are payload, and writable."""

_MORE, _LONG, _COMMAND = 1, 2, 4
_SHORT_BYTES = 255
_MECHANISM = slice(12, 32)  # of a greeting
_IN_PLACE_BYTES = 2 * 1024
"""A frame of at least this size that is not complete gets a buffer of its own, which the rest is read into."""
_MAX_COMMAND_BYTES = 1024
_MAX_IDENTITY_BYTES = 255
_MAX_CONTEXT_BYTES = 16  # of a PING
_COMMON_START = bytes((_MORE, 0, _MORE))  # an empty frame, and a short one after it
_COMMON_BYTES = 6  # of three such heads
_MAX_DISCARDED = 64
"""Frames of an overlong message that are discarded before the caller gets a turn for other connections."""

PING, PONG, READY, ERROR = b"\4PING", b"\4PONG", b"\5READY", b"\5ERROR"
PING_BODY = PING + b"\0\0"

COMPATIBLE_SOCKETS = {
    b"ROUTER": frozenset({b"DEALER", b"REQ", b"ROUTER"}),
    b"DEALER": frozenset({b"ROUTER", b"REP", b"DEALER"}),
}
"""The socket types that may connect to each type (ZMTP 3.1, section 5)."""


class ConnectionEnded(InferentialError):
    """The peer closed the connection, or it broke."""


class ProtocolError(ConnectionEnded):
    """The peer broke a rule of ZMTP; the connection has to be closed."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What a handshake found out of the peer.

    Attributes:
        socket_type: such as DEALER.
        identity: as the peer says; of a client with a key, the name of the key.
        key: the client's long-term public key, which it has proven to hold; b"" without encryption.
    """

    socket_type: bytes
    identity: bytes
    key: bytes = b""


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


def check_greeting(data: bytes) -> None:
    """Checks as much of the peer's greeting as was received.

    Raises:
        ProtocolError: it is no greeting, or one of a version that is not supported.
    """
    if data[:1] not in (b"", b"\xff") or data[9:10] not in (b"", b"\x7f"):
        raise ProtocolError("peer does not speak ZMTP (ZeroMQ's protocol)")
    if data[10:11] not in (b"",) and data[10] < 3:
        raise ProtocolError(f"peer speaks ZMTP {data[10]}; version 3 is supported, which libzmq has from 4.0 on")


def mechanism_of(data: bytes) -> str:
    """Returns the name of the mechanism in a complete greeting, such as NULL or CURVE."""
    return data[_MECHANISM].rstrip(b"\0").decode("ascii", "replace")


def supports_heartbeats(data: bytes) -> bool:
    """Returns whether the peer with this greeting supports PING and PONG, which are part of ZMTP 3.1 and later."""
    return data[10:12] >= b"\3\1"


def ready(socket_type: bytes, identity: bytes) -> bytes:
    """Returns the READY command, which ends the handshake."""
    return command(READY + properties((b"Socket-Type", socket_type), (b"Identity", identity)))


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
    return Ready(socket_type, identity)


def properties(*named: tuple[bytes, bytes]) -> bytes:
    """Returns names and values as they are written in READY."""
    return b"".join(bytes((len(name),)) + name + len(value).to_bytes(4) + value for name, value in named)


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
        end = value_at + int.from_bytes(data[name_end:value_at])
        if value_at > len(data) or end > len(data):
            raise ProtocolError("READY ends within a property")
        found[data[at + 1 : name_end].lower()] = data[value_at:end]
        at = end
    return found


def command(body: bytes) -> bytes:
    """Returns a frame with a command: its name and its data."""
    return _head(_COMMAND, len(body)) + body


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


def _head(flags: int, size: int) -> bytes:
    if size <= _SHORT_BYTES:
        return bytes((flags, size))
    return bytes((flags | _LONG,)) + size.to_bytes(8)


_LAST_HEADS = [_head(0, size) for size in range(_SHORT_BYTES + 1)]
_MORE_HEADS = [_head(_MORE, size) for size in range(_SHORT_BYTES + 1)]
_COMMON_HEADS = [_head(_MORE, 0) + head for head in _MORE_HEADS]  # an empty frame, and the head of one after it


def message(frames: Sequence[Frame], join_below: int) -> list[Buffer]:
    """Returns a message as buffers to send one after another; those below `join_below` bytes are copied into one."""
    if len(frames) == 3:
        # Fast path for [empty, short envelope, payload], which almost all messages are: the same bytes at a fifth of
        # the cost.
        first, envelope, payload = frames
        size = len(envelope)
        if not first and size <= _SHORT_BYTES and not isinstance(envelope, list) and not isinstance(payload, list):
            heads, size = _COMMON_HEADS[size], len(payload)
            if size < join_below:
                head = _LAST_HEADS[size] if size <= _SHORT_BYTES else _head(0, size)
                return [b"".join((heads, envelope, head, payload))]
            return [b"".join((heads, envelope, _head(0, size))), payload]
    *others, last = frames
    parts: list[Buffer] = []
    small: list[Buffer] = []
    for frame in others:
        size = _size(frame)
        small.append(_MORE_HEADS[size] if size <= _SHORT_BYTES else _head(_MORE, size))
        _add(frame, parts, small, join_below)
    size = _size(last)
    small.append(_LAST_HEADS[size] if size <= _SHORT_BYTES else _head(0, size))
    _add(last, parts, small, join_below)
    _join(small, parts)
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


Allocate = Callable[[int], memoryview | None]


class Reader:
    """Splits a stream of bytes into messages and commands.

    Received bytes are passed to `feed`, or, while `space` is not None, read into that; `next` returns what is complete.

    Args:
        max_frame_bytes: a message frame above it is an error; None: no limit.
        max_frames: frames of a message; a message with more is discarded, and `next` returns `Discarded`.
        allocate: returns memory for a large frame, or None: new memory.
    """

    def __init__(self, max_frame_bytes: int | None, max_frames: int, allocate: Allocate | None = None) -> None:
        self._allocate = allocate
        self._max_frame_bytes = max_frame_bytes
        self._max_frames = max_frames
        self._common_fits = max_frames > HEAD_FRAMES and (max_frame_bytes is None or max_frame_bytes >= _SHORT_BYTES)
        self._data = b""
        self._at = 0
        self._frames: list[Buffer] = []
        self._overlong = False
        self._body: memoryview | None = None  # a large frame, and its flags
        self._body_flags = 0
        self.reserve: Callable[[int], bool] | None = None
        """Asked before memory for a large frame is allocated; where it returns False, the frame is an error."""
        self.space: memoryview | None = None
        """The rest of a large frame, to be read into; call `filled` after that."""
        self.buffered: bool = False
        """Whether there are bytes that `next` has not consumed, be it because they are not a complete frame."""

    def feed(self, data: bytes) -> None:
        """Adds received bytes."""
        self._data = self._data[self._at :] + data if self.buffered else data
        self._at = 0
        self.buffered = bool(self._data)

    def rest(self) -> bytes:
        """Returns the bytes that `next` has not consumed, for another reader to go on with."""
        return self._data[self._at :]

    def filled(self, size: int) -> None:
        """Notes that the first `size` bytes of `space` were read."""
        assert self.space is not None
        self.space = self.space[size:] if size < len(self.space) else None

    def next(self) -> list[Buffer] | bytes | Discarded | None:
        """Returns the next message as its frames, the next command as bytes, or None where neither is complete.

        Raises:
            ProtocolError: the bytes are no frame, or one that is too large.
        """
        if self.space is not None:
            return None
        data, at, end = self._data, self._at, len(self._data)
        # Fast path for [empty, short envelope, payload], which almost all messages are: the same frames at a third of
        # the cost.
        begins = self._body is None and not self._frames and self._common_fits
        if begins and end - at >= _COMMON_BYTES and data.startswith(_COMMON_START, at):
            envelope_at = at + 4
            flags_at = envelope_at + data[at + 3]
            payload_at = flags_at + 2
            if payload_at > end:
                pass
            elif data[flags_at] == 0:
                stop = payload_at + data[flags_at + 1]
                if stop <= end:
                    self._at, self.buffered = stop, stop < end
                    return [b"", data[envelope_at:flags_at], bytearray(data[payload_at:stop])]
            elif data[flags_at] == _LONG and payload_at + 7 <= end:
                payload_at += 7
                size = int.from_bytes(data[flags_at + 1 : payload_at])
                if payload_at + size > end and size >= _IN_PLACE_BYTES:
                    self._check(_LONG, size)
                    self._begin(_LONG, size, memoryview(data)[payload_at:])
                    self._frames = [b"", data[envelope_at:flags_at]]
                    self._at, self.buffered = end, False
                    return None
        found = self._found(data, at, end)
        self.buffered = self._at < end
        return found

    def _found(self, data: bytes, at: int, end: int) -> list[Buffer] | bytes | Discarded | None:
        """Returns the next message or command, of any form."""
        dropped = 0
        frame: Buffer
        while True:
            if self._body is None:
                start = at + 2
                if start > end:
                    break
                flags, size = data[at], data[at + 1]
                if flags & _LONG:
                    start = at + 9
                    if start > end:
                        break
                    size = int.from_bytes(data[at + 1 : start])
                self._check(flags, size)
                stop = start + size
                if stop > end:
                    if size >= _IN_PLACE_BYTES:
                        self._begin(flags, size, memoryview(data)[start:])
                        at = end
                    break
                at = stop
                frame = data[start:stop]
                if flags & _COMMAND:
                    self._at = at
                    return frame
                if len(self._frames) >= HEAD_FRAMES:
                    frame = bytearray(frame)
            else:
                flags, frame, self._body = self._body_flags, self._body, None
                if len(self._frames) < HEAD_FRAMES:
                    frame = bytes(frame)
            if len(self._frames) < self._max_frames:
                self._frames.append(frame)
            else:
                self._overlong = True
                dropped += 1
            if not flags & _MORE:
                self._at = at
                frames, self._frames = self._frames, []
                overlong, self._overlong = self._overlong, False
                return Discarded.MESSAGE if overlong else frames
            if dropped >= _MAX_DISCARDED:
                self._at = at
                return Discarded.PART
        self._at = at
        return None

    def _check(self, flags: int, size: int) -> None:
        if flags > _MORE | _LONG:
            if flags & ~_LONG != _COMMAND or size > _MAX_COMMAND_BYTES:
                raise ProtocolError(f"frame of {size} bytes has invalid flags {flags:#04x}")
        elif self._max_frame_bytes is not None and size > self._max_frame_bytes:
            raise ProtocolError(f"frame of {size} bytes; at most {self._max_frame_bytes} are allowed")

    def limit(self, max_frame_bytes: int | None) -> None:
        """Changes the limit of frames."""
        self._max_frame_bytes = max_frame_bytes
        self._common_fits = self._max_frames > HEAD_FRAMES and (
            max_frame_bytes is None or max_frame_bytes >= _SHORT_BYTES
        )

    def _begin(self, flags: int, size: int, there: memoryview) -> None:
        if self.reserve is not None and not self.reserve(size):
            raise ProtocolError(f"no room for a frame of {size} bytes: too much is half received or not read")
        body = None if self._allocate is None else self._allocate(size)
        try:
            # Uninitialized memory: it is filled before it is returned.
            self._body, self._body_flags = np.empty(size, np.uint8).data if body is None else body, flags
        except (MemoryError, ValueError) as error:
            raise ProtocolError(f"no memory for a frame of {size} bytes") from error
        self._body[: len(there)] = there
        self.space = self._body[len(there) :]
