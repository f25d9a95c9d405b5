"""A connected, non-blocking socket that speaks ZMTP.

The owner connects and reconnects. When the socket is readable, it calls `handshake` until that returns True, and from
then on `read` and then `next` until that returns None; while `unsent` is not 0, it calls `flush` when the socket is
writable. Any of these may leave something unsent, also `next` and `ping`.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable, Sequence

from inferential.zmtp import tcp, zmtp2
from inferential.zmtp.handshake import Handshake, HandshakeError, NullHandshake, cut_short
from inferential.zmtp.protocol import (
    GREETING_BYTES,
    PING,
    PING_BODY,
    PONG,
    VERSION_BYTES,
    Buffer,
    ConnectionEnded,
    Discarded,
    Frame,
    ProtocolError,
    Ready,
    check_greeting,
    command,
    is_followed,
    message,
    messages_without_payload,
    pong_body,
    supports_heartbeats,
    ttl_s,
)
from inferential.zmtp.reader import Allocate, Reader
from inferential.zmtp.sockets import Connected, abort, close
from inferential.zmtp.wire import FrameReader
from inferential.zmtp.zmtp2 import Zmtp2Handshake

JOIN_BELOW_BYTES = 32 * 1024
"""Smaller frames are copied into one buffer with their headers, which is faster than a vector of buffers."""
READ_BYTES = 4 * 1024
"""One read takes dozens of small messages, copies little of a large one twice, and bounds a flood of heartbeats."""
WITH_NEXT: int = getattr(socket, "MSG_MORE", 0)  # in one packet with what follows at once: fewer can be lost or late
_HANDSHAKE_BYTES = 1024  # of a frame before the handshake is complete
_MAX_BUFFERS = 64  # of one sendmsg, far below the limit of any system
_MAX_READS = 32  # without a message, before the caller gets a turn; `drained` is False then
_SMALL_READ = 8  # so many of these are one that holds commands, which take longer than the bytes of a frame
MAX_BODY_READ_BYTES = 1024 * 1024
"""Bytes of a large frame that are read in one go, so that other connections get a turn meanwhile."""


class Stream(Connected):
    """A connection, from the greeting on.

    Args:
        connected: the socket; the stream owns it.
        socket_type, identity: sent to the peer in READY.
        max_frame_bytes, max_frames, allocate: see `reader.Reader`.
        handshake: of another mechanism than NULL; it has socket type and identity itself then.
        presumed: whether the handshake presumes what the peer will say, which is one of ZMTP 3.1.
    """

    def __init__(
        self,
        connected: socket.socket,
        socket_type: bytes,
        identity: bytes = b"",
        max_frame_bytes: int | None = None,
        max_frames: int = 3,
        handshake: Handshake | None = None,
        allocate: Allocate | None = None,
        presumed: bool = False,
    ) -> None:
        self._socket = connected
        connected.setblocking(False)
        tcp.prepare(connected)
        self._handshake: Handshake = NullHandshake(socket_type, identity) if handshake is None else handshake
        self._greeting: bytearray | None = bytearray()  # None: it was whole
        self._presumed = presumed  # until it has said who it is
        self.answers_pings: bool = presumed
        """Whether the peer answers `ping` by ZMTP 3.1."""
        self._limits = max_frame_bytes, max_frames
        # A peer that is not known yet gets no memory for more than the commands of a handshake.
        self._reader: FrameReader = Reader(_HANDSHAKE_BYTES, max_frames, allocate)
        # A connection with keys puts other functions here once it is established, so that one without has no branch.
        self._message, self._command = message, command
        self._unsent: deque[tuple[memoryview, bool]] = deque()  # a buffer, and whether a message ends with it
        self.unsent: int = 0
        """Messages that are not completely handed to the system yet."""
        self.peer: Ready | None = self._handshake.peer
        """The peer's socket type, identity and key; None until messages may be sent."""
        self.on_pong: Callable[[bytes], None] | None = None  # called with the context of each PONG
        self._owed: bytes | None = None  # the newest PING that is to be answered once everything is sent
        self.alive: bool = True
        """Whether since the last `ping` something was received, or unsent data could be sent."""
        self.drained: bool = False
        self.commands: int = 0  # that were handled since the last `read`
        self.ttl_s: float = 0.0
        """The time to live of the peer's last PING: if it is not heard of for so long, it is gone. 0: not given."""
        hello, flags = self._handshake.greeting(), 0
        if self._handshake.accepting and self.has_unread(GREETING_BYTES):
            flags = WITH_NEXT  # the answer to that follows at once
        if self.peer is not None:
            flags = WITH_NEXT
            self._establish()
        self._send([hello], flags)

    def buffered(self) -> bool:
        """Returns whether `next` may return something without another `read`."""
        return self._reader.buffered

    def handshake(self) -> bool:
        """Continues the handshake as far as data was received; returns True once it is complete.

        Raises:
            ConnectionEnded: the connection was closed, or the peer broke a rule of ZMTP.
        """
        if self.peer is not None:
            return True
        try:
            while self.peer is None:
                found = self._reader.next()
                if isinstance(found, bytes):
                    self._answer(self._handshake.receive(found), WITH_NEXT if self._presumed else 0)
                    self.peer = self._handshake.peer
                elif isinstance(found, list) and isinstance(self._handshake, Zmtp2Handshake):
                    self._handshake.receive_identity(found)
                    self.peer = self._handshake.peer
                elif found is not None:
                    raise ProtocolError("message before READY")
                elif not self.read():
                    return False
        except HandshakeError as error:
            with contextlib.suppress(ConnectionEnded):
                self._answer(error.answer)
            raise
        except ProtocolError:
            raise
        except ConnectionEnded as error:
            raise cut_short(self._handshake, error) from error
        self._establish()
        return True

    def _answer(self, data: bytes, flags: int = 0) -> None:
        if data:
            self._send([data], flags)

    def _establish(self) -> None:
        """Goes on with the limits of messages, and in their encrypted form where the handshake has led to one; of a
        peer that is presumed again, once it has said who it is: nothing encrypted comes before."""
        assert isinstance(self._reader, Reader)
        before = self._reader
        wire = self._handshake.wire(*self._limits)
        if wire is None:
            before.limit(self._limits[0])
            return
        self._message, self._command = wire.message, wire.command
        if not self._presumed:
            self._reader = wire.reader
            self._reader.feed(before.rest())

    def reserve_by(self, reserve: Callable[[int], bool]) -> None:
        """Asks `reserve` before memory for a large frame is allocated; False ends the connection."""
        self._reader.reserve = reserve

    @property
    def missing_bytes(self) -> int:
        """The bytes that a large frame lacks which is half received; 0: there is none."""
        return 0 if self._reader.space is None else len(self._reader.space)

    @property
    def unsent_bytes(self) -> int:
        """The bytes that are not handed to the system yet."""
        return sum(len(part) for part, _ in self._unsent)

    def read(self) -> bool:
        """Reads once; returns False where nothing was there. `drained` is True where all was read.

        Raises:
            ConnectionEnded: the connection was closed.
        """
        try:
            self.commands = 0
            if self._reader.space is not None:
                return self._read_body()
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            self.drained = True
            return False
        except OSError as error:
            raise ConnectionEnded(error.strerror) from error
        if not data:
            raise ConnectionEnded("peer closed the connection")
        self.alive = True
        self.drained = len(data) < READ_BYTES
        self._reader.feed(data if self._greeting is None else self._take_greeting(data))
        return True

    def _read_body(self) -> bool:
        """Reads what is there of a large frame, up to a limit."""
        found = 0
        self.drained = False
        while self._reader.space is not None and found < MAX_BODY_READ_BYTES:
            try:
                size = self._socket.recv_into(self._reader.space)
            except BlockingIOError:
                self.drained = True
                break
            if not size:
                raise ConnectionEnded("peer closed the connection")
            self._reader.filled(size)
            self.alive = True
            found += size
        return found > 0

    def _take_greeting(self, data: bytes) -> bytes:
        """Returns what follows the greeting; ProtocolError where it is invalid."""
        assert self._greeting is not None
        self._greeting += data
        size = GREETING_BYTES
        if self._greeting[VERSION_BYTES - 1 : VERSION_BYTES] and self._greeting[VERSION_BYTES - 1] in zmtp2.REVISIONS:
            older = self._handshake.older()
            if older is not None:
                self._handshake, size = older, zmtp2.GREETING_BYTES
        check_greeting(bytes(self._greeting), min(zmtp2.REVISIONS) if size == zmtp2.GREETING_BYTES else 3)
        if len(self._greeting) < size:
            return b""
        self.answers_pings = supports_heartbeats(bytes(self._greeting))
        rest, whole, self._greeting = bytes(self._greeting[size:]), bytes(self._greeting), None
        answer = self._handshake.greeted(whole)
        self._answer(answer, WITH_NEXT if self._handshake.accepting and is_followed(rest) else 0)  # it is answered soon
        return rest

    def next(self) -> list[Buffer] | Discarded | None:
        """Returns the next message, None where none is complete. Handles commands; check `unsent` afterwards.

        Where a large frame has begun, what is there of the rest is read too, which mostly completes it without another
        wakeup.

        Raises:
            ConnectionEnded: the connection was closed, or the peer broke a rule of ZMTP.
        """
        reader = self._reader
        found = reader.next()
        if found is None and reader.space is not None and not self.drained and self.read():
            found = reader.next()
        return self._handle_commands(found) if isinstance(found, bytes) else found

    def burst(self) -> list[tuple[bytes, Buffer, int, int]]:
        """Returns small messages that were read already and follow each other, see `reader.Reader.burst`."""
        return self._reader.burst() if self._reader.buffered else []

    def receive(self) -> list[Buffer] | Discarded | None:
        """Returns what `next` does, and reads where none is complete yet. By `buffered` and `drained` the caller sees
        whether there may be another.

        Raises:
            ConnectionEnded: as `next`.
        """
        found = self.next() if self._reader.buffered else None
        reads = 0
        while found is None:
            reads += _SMALL_READ if self._reader.space is None else 1
            if reads > _MAX_READS or not self.read():
                return None
            found = self.next()
            if found is None and self.drained:
                return None
        return found

    def _handle_commands(self, found: bytes) -> list[Buffer] | Discarded | None:
        """Handles commands up to the next message; the PINGs of one read are answered in one write."""
        pings = []
        following: list[Buffer] | bytes | Discarded | None = found
        while isinstance(following, bytes):
            self.commands += 1
            if following.startswith(PING):
                self.ttl_s = ttl_s(following)
                pings.append(following)
            elif self.on_pong is not None and following.startswith(PONG):
                self.on_pong(following[len(PONG) :])
            elif self._presumed:
                self._handshake.receive(following)
                self.peer, self._presumed = self._handshake.peer, False
                self._establish()
            following = self._reader.next()
        if pings and self._unsent:
            self._owed = pings[-1]  # a peer that does not read gets one answer, when it has read
        elif pings:
            with contextlib.suppress(ConnectionEnded):  # reading finds it too, after what was received before
                self._send([b"".join([self._command(pong_body(one)) for one in pings])])
        return following

    def send(self, frames: Sequence[Frame], flags: int = 0) -> None:
        """Sends a message, with `WITH_NEXT` or not; `flush` sends what the system does not accept at once.

        Raises:
            ConnectionEnded: the connection was closed.
        """
        self._send(self._message(frames, JOIN_BELOW_BYTES), flags)

    def send_marked(self, frames: Sequence[Frame], before: bytes | None, after: bytes) -> None:
        """Sends a message between two PINGs with these contexts, or before one.

        Raises:
            ConnectionEnded: the connection was closed.
        """
        parts: list[Buffer] = [] if before is None else [self._command(PING_BODY + before)]
        parts += self._message(frames, JOIN_BELOW_BYTES)
        parts.append(self._command(PING_BODY + after))
        self._send(parts)

    def send_together(self, envelopes: Sequence[bytes], last: Sequence[Frame] = ()) -> None:
        """Sends messages [empty, envelope, empty], and a small last one, in one write; they count as one in `unsent`.

        Raises:
            ConnectionEnded: the connection was closed.
        """
        parts = messages_without_payload(envelopes, self._message)
        self._send([b"".join(parts + self._message(last, JOIN_BELOW_BYTES) if last else parts)])

    def ping(self, context: bytes = b"") -> None:
        """Sends a heartbeat and resets `alive`; while data is unsent, sending some of it counts as an answer.

        Its PONG has the same context, of 16 bytes at most.

        A peer with ZMTP 3.0 (libzmq before 4.2) does not support heartbeats: it gets none and counts as alive.

        Raises:
            ConnectionEnded: the connection was closed.
        """
        if not self.answers_pings:
            return
        self.alive = False
        if not self._unsent:
            self._send([self._command(PING_BODY + context)])

    def _send(self, parts: list[Buffer], flags: int = 0) -> None:
        sent = 0
        if not self._unsent:
            try:
                sent = self._socket.send(parts[0], flags)
                if sent == len(parts[0]):
                    if len(parts) == 1:
                        return
                    # The header was sent alone: the peer wakes up while the rest is copied.
                    sent += self._socket.sendmsg(parts[1:_MAX_BUFFERS])
            except BlockingIOError:
                pass
            except OSError as error:
                raise ConnectionEnded(error.strerror) from error
            if sent == sum(map(len, parts)):
                return
        self.unsent += 1
        last = len(parts) - 1
        for number, part in enumerate(parts):
            if sent < len(part):
                self._unsent.append((memoryview(part)[sent:], number == last))
            sent = max(sent - len(part), 0)

    def flush(self) -> None:
        """Sends as much of the unsent data as the system accepts.

        Raises:
            ConnectionEnded: the connection was closed.
        """
        while self._unsent:
            part, ends = self._unsent[0]
            try:
                sent = self._socket.send(part)
            except BlockingIOError:
                return
            except OSError as error:
                raise ConnectionEnded(error.strerror) from error
            self.alive = True  # on a slow network a message may take longer than a heartbeat
            if sent < len(part):
                self._unsent[0] = part[sent:], ends
            else:
                self._unsent.popleft()
                self.unsent -= ends
        if self._owed is not None:
            owed, self._owed = self._owed, None
            self._send([self._command(pong_body(owed))])

    def close(self) -> None:
        """Closes the connection. Data that was handed to the system still arrives. Closing twice does nothing."""
        self._unsent.clear()
        self.unsent = 0
        self._reader.abandon()
        close(self._socket)

    def abort(self) -> None:
        """Closes the connection so that the peer learns of it at once, though data be stuck: what is unsent is lost."""
        abort(self._socket)
        self.close()
