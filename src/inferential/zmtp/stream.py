"""A connected socket that speaks ZMTP, and never waits.

It decides nothing: who connects to whom, and what becomes of a connection that ends, is its owner's business. Whoever
is told that the socket is readable calls `handshake` until that is true, and from then on `read` and then `next`
until that gives None; while `unsent` is not 0, `flush` is to be called when the socket can be written to. Any of these
may leave something unsent, also `next` and `ping`.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Sequence

from inferential.zmtp.protocol import (
    GREETING_BYTES,
    PING,
    Buffer,
    ConnectionEnded,
    Discarded,
    Frame,
    ProtocolError,
    Reader,
    Ready,
    check_greeting,
    greeting,
    message,
    ping,
    pong,
    read_ready,
    ready,
    supports_heartbeats,
)

JOIN_BELOW_BYTES = 32 * 1024
"""Frames below it are copied into one buffer with their heads, which is faster than telling the system of each."""
_READ_BYTES = 4 * 1024
"""Small messages come whole, some dozens at once; of a large one, little is copied twice; and a flood of heartbeats,
seen to in one go, is a few hundred."""
_MAX_BUFFERS = 64  # of one call, far below what any system takes
_LAST_READS, _LAST_READ_BYTES = 64, 64 * 1024  # on closing, of what nobody will look at
_MAX_BODY_READ_BYTES = 1024 * 1024
"""Of a large frame, so much is read in one go: others are to be heard too while somebody sends a very large one."""
_KEEPALIVE = {
    "TCP_KEEPIDLE": 30,
    "TCP_KEEPALIVE": 30,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 60_000,
}
"""A machine that is gone is missed by the system in a minute, not in two hours: nobody sends robots heartbeats, and
each that drove out of reach would cost a descriptor. Linux ends by TCP_USER_TIMEOUT also who is there and has taken
nothing of what is on its way for that long. TCP_KEEPALIVE is macOS's name for TCP_KEEPIDLE."""


MAX_PATH_BYTES = 107
"""Bytes that the system takes for the name of a socket."""


def socket_path(path: str) -> str:
    """Of ipc://PATH, what the system calls it: @ begins a name that is in no file system, as in libzmq."""
    return "\0" + path[1:] if path.startswith("@") else path


class Stream:
    """A connection, from its greeting on.

    Args:
        connected: the socket; the stream owns it from now on.
        socket_type, identity: what the other end is told.
        max_frame_bytes, max_frames: limits, as of `protocol.Reader`.
    """

    def __init__(
        self,
        connected: socket.socket,
        socket_type: bytes,
        identity: bytes = b"",
        max_frame_bytes: int | None = None,
        max_frames: int = 3,
    ) -> None:
        self._socket = connected
        connected.setblocking(False)
        if connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE.items():
                if hasattr(socket, name):
                    connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._socket_type = socket_type
        self._ready = ready(socket_type, identity)
        self._greeting: bytearray | None = bytearray()  # None: it was whole
        self._supports_heartbeats = False
        self._reader = Reader(max_frame_bytes, max_frames)
        self._unsent: deque[tuple[memoryview, bool]] = deque()  # a buffer, and whether a message ends with it
        self.unsent = 0
        """Messages that the system has not taken whole yet."""
        self.peer: Ready | None = None
        """What the other end is, once the handshake is over."""
        self.alive = True
        """Since the last `ping` something came, or the other end took something of what was unsent."""
        self.drained = False
        self._send([greeting()])

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return self._socket.fileno()

    def buffered(self) -> bool:
        """Whether `next` may give something without another `read`."""
        return self._reader.buffered

    def handshake(self) -> bool:
        """Goes on with the handshake, as far as the other end has; True once it is over.

        Raises:
            ConnectionEnded: the connection is over, or the other end does not speak ZMTP as it should.
        """
        while self.peer is None:
            found = self._reader.next()
            if isinstance(found, bytes):
                self.peer = read_ready(found, self._socket_type)
            elif found is not None:
                raise ProtocolError("a message came before READY")
            elif not self.read():
                return False
        return True

    def read(self) -> bool:
        """Takes in what came, one gulp of it; False where nothing did. `drained` tells whether it was all.

        Raises:
            ConnectionEnded: the connection is over.
        """
        try:
            if self._reader.space is not None:
                return self._read_body()
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            self.drained = True
            return False
        except OSError as error:
            raise ConnectionEnded(error.strerror) from error
        if not data:
            raise ConnectionEnded("the other end closed the connection")
        self.alive = True
        self.drained = len(data) < _READ_BYTES
        self._reader.feed(data if self._greeting is None else self._take_greeting(data))
        return True

    def _read_body(self) -> bool:
        """Reads what there is of a large frame, up to a limit."""
        found = 0
        self.drained = False
        while self._reader.space is not None and found < _MAX_BODY_READ_BYTES:
            try:
                size = self._socket.recv_into(self._reader.space)
            except BlockingIOError:
                self.drained = True
                break
            if not size:
                raise ConnectionEnded("the other end closed the connection")
            self._reader.filled(size)
            self.alive = True
            found += size
        return found > 0

    def _take_greeting(self, data: bytes) -> bytes:
        """Takes the greeting off the front of what came; ProtocolError where it is none."""
        assert self._greeting is not None
        self._greeting += data
        check_greeting(bytes(self._greeting))
        if len(self._greeting) < GREETING_BYTES:
            return b""
        self._supports_heartbeats = supports_heartbeats(bytes(self._greeting))
        rest = bytes(self._greeting[GREETING_BYTES:])
        self._greeting = None
        self._send([self._ready])
        return rest

    def next(self) -> list[Buffer] | Discarded | None:
        """The next message, None where none has come whole. Commands are seen to; look at `unsent` after it.

        Where a large frame has begun, what is there of the rest is read too: mostly all, and nobody needs to be woken
        again for it.

        Raises:
            ConnectionEnded: the connection is over, or the other end does not speak ZMTP as it should.
        """
        reader = self._reader
        found = reader.next()
        if found is None and reader.space is not None and not self.drained and self.read():
            found = reader.next()
        return self._handle_commands(found) if isinstance(found, bytes) else found

    def receive(self) -> list[Buffer] | Discarded | None:
        """The same, and reads on where none is here yet. `buffered` and `drained` tell whether there may be another.

        Raises:
            ConnectionEnded: as `next`.
        """
        found = self.next() if self._reader.buffered else None
        while found is None:
            if not self.read():
                return None
            found = self.next()
            if found is None and self.drained:
                return None
        return found

    def _handle_commands(self, found: bytes) -> list[Buffer] | Discarded | None:
        """Sees to commands, up to the next message; answers those of one gulp at once."""
        pongs = []
        following: list[Buffer] | bytes | Discarded | None = found
        while isinstance(following, bytes):
            if following.startswith(PING):
                pongs.append(pong(following))
            following = self._reader.next()
        if pongs and not self._unsent:  # who does not read needs no answer
            with contextlib.suppress(ConnectionEnded):  # which reading finds too, after what came before the end
                self._send([b"".join(pongs)])
        return following

    def send(self, frames: Sequence[Frame]) -> None:
        """Sends a message; what the system does not take at once is kept, and is for `flush` to send.

        Raises:
            ConnectionEnded: the connection is over.
        """
        self._send(message(frames, JOIN_BELOW_BYTES))

    def ping(self) -> None:
        """Asks for a sign of life; `alive` tells whether one came. While something is unsent, taking that is one.

        An end that speaks ZMTP 3.0, as libzmq before 4.2, knows no heartbeats: it is not asked, and counts as alive.

        Raises:
            ConnectionEnded: the connection is over.
        """
        if not self._supports_heartbeats:
            return
        self.alive = False
        if not self._unsent:
            self._send([ping()])

    def _send(self, parts: list[Buffer]) -> None:
        sent = 0
        if not self._unsent:
            try:
                sent = self._socket.send(parts[0])
                if sent == len(parts[0]):
                    if len(parts) == 1:
                        return
                    # The head has left alone: the other end wakes by it while the rest is copied.
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
        """Sends what the system takes of what is unsent.

        Raises:
            ConnectionEnded: the connection is over.
        """
        while self._unsent:
            part, ends = self._unsent[0]
            try:
                sent = self._socket.send(part)
            except BlockingIOError:
                return
            except OSError as error:
                raise ConnectionEnded(error.strerror) from error
            self.alive = True  # a message may take longer than a heartbeat, on a slow way
            if sent < len(part):
                self._unsent[0] = part[sent:], ends
            else:
                self._unsent.popleft()
                self.unsent -= ends

    def close(self) -> None:
        """Ends the connection. What the system has taken still arrives. Closing twice is fine."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            for _ in range(_LAST_READS):  # closing on what was not read would void what is on its way
                if not self._socket.recv(_LAST_READ_BYTES):
                    break
        self._unsent.clear()
        self.unsent = 0
        self._socket.close()
