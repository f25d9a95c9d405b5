"""The mind of a ZMTP connection: greeting, handshake, commands and frames, from bytes and to bytes.

It has no socket and no clock: `zmtp.stream` gives it what came and sends what it says.

    greeting (64 bytes, each way)  ->  READY (each way)  ->  messages, with PING and PONG between them

A frame is a byte of flags, its size in 1 or 8 bytes, and a body; a message is frames of which all but the last have the
flag MORE. https://rfc.zeromq.org/spec/37/
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inferential.errors import InferentialError

Buffer = bytes | bytearray | memoryview
Frame = Buffer | list[Buffer]
"""What a frame is made of: one buffer, or several that are sent one after another from where they are."""

GREETING_BYTES = 64
HEAD_FRAMES = 2
"""Of a message, so many are for us to read and come as bytes; the others are payload, and can be written to."""

_MORE, _LONG, _COMMAND = 1, 2, 4
_SHORT_BYTES = 255
_NULL = b"NULL".ljust(20, b"\0")
_GREETING = b"\xff" + b"\0" * 8 + b"\x7f" + b"\3\1" + _NULL + b"\0" * 32
_IN_PLACE_BYTES = 2 * 1024
"""From here on a frame that has not come whole gets memory of its own, which the rest is read into."""
_MAX_COMMAND_BYTES = 1024
_MAX_IDENTITY_BYTES = 255
_MAX_CONTEXT_BYTES = 16  # of a heartbeat
_COMMON_START = bytes((_MORE, 0, _MORE))  # an empty frame, and a short one after it
_COMMON_BYTES = 6  # of three such heads
_MAX_DISCARDED = 64
"""Frames of an endless message that are thrown away in one go, others' messages between."""

PING, PONG, READY, ERROR = b"\4PING", b"\4PONG", b"\5READY", b"\5ERROR"

COMPATIBLE_SOCKETS = {
    b"ROUTER": frozenset({b"DEALER", b"REQ", b"ROUTER"}),
    b"DEALER": frozenset({b"ROUTER", b"REP", b"DEALER"}),
}
"""Which sockets speak to which."""


class ConnectionEnded(InferentialError):
    """The other end closed the connection, or it broke."""


class ProtocolError(ConnectionEnded):
    """The other end does not speak ZMTP as it should: there is nothing to be done but to end the connection."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What the other end said of itself."""

    socket_type: bytes
    identity: bytes


class Discarded(enum.Enum):
    """Stands for frames that were thrown away, of a message that has more of them than anybody reads."""

    PART = "part"
    """There are more to come."""
    MESSAGE = "message"
    """That was the last of them."""


def greeting() -> bytes:
    """The first that either end says."""
    return _GREETING


def check_greeting(data: bytes) -> None:
    """Looks at as much of the other end's greeting as has come.

    Raises:
        ProtocolError: it is none, or of a version or a mechanism that is not spoken here.
    """
    if data[:1] not in (b"", b"\xff") or data[9:10] not in (b"", b"\x7f"):
        raise ProtocolError("the other end does not speak ZMTP")
    if data[10:11] not in (b"",) and data[10] < 3:
        raise ProtocolError(f"the other end speaks ZMTP {data[10]}; 3 is spoken here, as by libzmq from 4.0 on")
    if len(data) >= GREETING_BYTES and data[12:32] != _NULL:
        mechanism = data[12:32].rstrip(b"\0").decode("ascii", "replace")
        raise ProtocolError(f"the other end asks for the mechanism {mechanism}, which is not spoken here")


def supports_heartbeats(data: bytes) -> bool:
    """Whether the end that said this greeting knows PING and PONG, which came with ZMTP 3.1."""
    return data[10:12] >= b"\3\1"


def ready(socket_type: bytes, identity: bytes) -> bytes:
    """The command that ends the handshake."""
    return command(READY + _property(b"Socket-Type", socket_type) + _property(b"Identity", identity))


def read_ready(body: bytes, own_type: bytes) -> Ready:
    """What the other end's command says to a socket of `own_type`.

    Raises:
        ProtocolError: it is another command, or broken, or of a socket that has nothing to say to ours.
    """
    if body.startswith(ERROR):
        raise ProtocolError(f"the other end refused: {body[7:].decode('utf-8', 'replace')}")
    if not body.startswith(READY):
        raise ProtocolError("expected the command READY")
    properties = {}
    at = len(READY)
    while at < len(body):
        name_end = at + 1 + body[at]
        value_at = name_end + 4
        end = value_at + int.from_bytes(body[name_end:value_at])
        if value_at > len(body) or end > len(body):
            raise ProtocolError("READY ends in the midst of a property")
        properties[body[at + 1 : name_end].lower()] = body[value_at:end]
        at = end
    socket_type, identity = properties.get(b"socket-type", b""), properties.get(b"identity", b"")
    if socket_type not in COMPATIBLE_SOCKETS[own_type]:
        shown = socket_type.decode("ascii", "replace")
        raise ProtocolError(f"a {shown} socket does not speak to a {own_type.decode()}")
    if len(identity) > _MAX_IDENTITY_BYTES:
        raise ProtocolError(f"an identity of {len(identity)} bytes; {_MAX_IDENTITY_BYTES} are the most")
    return Ready(socket_type, identity)


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4) + value


def command(body: bytes) -> bytes:
    """A frame that carries a command: its name, and what belongs to it."""
    return _head(_COMMAND, len(body)) + body


def ping() -> bytes:
    """A heartbeat, with no time to live and no context."""
    return command(PING + b"\0\0")


def pong(body: bytes) -> bytes:
    """The answer to a heartbeat, its context in it."""
    context_at = len(PING) + 2  # after the time to live
    return command(PONG + body[context_at : context_at + _MAX_CONTEXT_BYTES])


def _head(flags: int, size: int) -> bytes:
    if size <= _SHORT_BYTES:
        return bytes((flags, size))
    return bytes((flags | _LONG,)) + size.to_bytes(8)


_LAST_HEADS = [_head(0, size) for size in range(_SHORT_BYTES + 1)]
_MORE_HEADS = [_head(_MORE, size) for size in range(_SHORT_BYTES + 1)]
_COMMON_HEADS = [_head(_MORE, 0) + head for head in _MORE_HEADS]  # an empty frame, and the head of one after it


def message(frames: Sequence[Frame], join_below: int) -> list[Buffer]:
    """A message as buffers to be sent one after another; those below `join_below` bytes are copied into one."""
    if len(frames) == 3:
        # The message that almost all are, [empty, short envelope, payload], as the long way would give it, at a fifth
        # of its price.
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
    if joined:  # none of the parts is empty: the last one tells that the message has left
        parts.append(joined)
    small.clear()


class Reader:
    """Messages and commands out of a stream of bytes.

    What came goes in by `feed`, or, while `space` is not None, straight into that; `next` gives what is whole.

    Args:
        max_frame_bytes: larger ones of a message are an error; None: none is.
        max_frames: of a message; one of more is thrown away, and gives `Discarded`.
    """

    def __init__(self, max_frame_bytes: int | None, max_frames: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._max_frames = max_frames
        self._common_fits = max_frames > HEAD_FRAMES and (max_frame_bytes is None or max_frame_bytes >= _SHORT_BYTES)
        self._data = b""
        self._at = 0
        self._frames: list[Buffer] = []
        self._overlong = False
        self._body: memoryview | None = None  # a large frame, and its flags
        self._body_flags = 0
        self.space: memoryview | None = None
        """The rest of a large frame, to be read into; say `filled` then."""
        self.buffered = False
        """Whether `next` has bytes to look at, or looked in vain at some that are not a whole frame."""

    def feed(self, data: bytes) -> None:
        """Takes in what came."""
        self._data = self._data[self._at :] + data if self.buffered else data
        self._at = 0
        self.buffered = bool(self._data)

    def filled(self, size: int) -> None:
        """So many bytes of `space` are there."""
        assert self.space is not None
        self.space = self.space[size:] if size < len(self.space) else None

    def next(self) -> list[Buffer] | bytes | Discarded | None:
        """The next message as its frames, the next command as bytes, or None where neither has come whole.

        Raises:
            ProtocolError: what came is no frame, or too large a one.
        """
        if self.space is not None:
            return None
        data, at, end = self._data, self._at, len(self._data)
        # The message that almost all are, [empty, short envelope, payload], as the long way would give it, at a third
        # of its price.
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
        """The next message or command, whatever it is made of."""
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
                raise ProtocolError(f"a frame of {size} bytes has the flags {flags:#04x}")
        elif self._max_frame_bytes is not None and size > self._max_frame_bytes:
            raise ProtocolError(f"a frame of {size} bytes; {self._max_frame_bytes} are the most")

    def _begin(self, flags: int, size: int, there: memoryview) -> None:
        try:
            # Memory that nobody clears: it is filled before anybody sees it.
            self._body, self._body_flags = np.empty(size, np.uint8).data, flags
        except (MemoryError, ValueError) as error:
            raise ProtocolError(f"a frame of {size} bytes, for which there is no memory") from error
        self._body[: len(there)] = there
        self.space = self._body[len(there) :]
