"""What is asked of a stream socket of any family: what the system knows of it, and how it is closed."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import sys
from typing import Any

from inferential.zmtp import tcp

_LAST_READS, _LAST_READ_BYTES = 64, 64 * 1024  # on closing, of data that is discarded


class Connected:
    """A connected socket that does not block, and what the system knows of it."""

    _socket: socket.socket

    def fileno(self) -> int:
        """Returns the descriptor, for a selector."""
        return self._socket.fileno()

    def has_unread(self, least: int = 1) -> bool:
        """Returns whether the system has so many bytes of the peer at least that were not read."""
        try:
            return len(self._socket.recv(least, socket.MSG_PEEK)) == least
        except OSError:
            return False

    def has_hung_up(self) -> bool:
        """Returns whether the peer has closed the connection, even if data of it are still to be read."""
        return has_hung_up(self._socket)

    def limit_unsent(self, size: int) -> None:
        """Has the system hold about so many bytes at most beyond those that are under way; the rest is `unsent`."""
        tcp.limit_unsent(self._socket, size)

    def received_s_ago(self) -> float:
        """Returns how long ago the system received the newest data, as `tcp.received_s_ago`."""
        return tcp.received_s_ago(self._socket)

    def round_trip_s(self) -> float:
        """Returns the connection's round trip, as `tcp.round_trip_s`."""
        try:
            return tcp.round_trip_s(self._socket)
        except OSError:
            return 0.0  # it has ended

    def is_stuck(self, timeouts: int) -> bool:
        """Returns whether the network seems to be away, see `tcp.is_stuck`."""
        try:
            return tcp.is_stuck(self._socket, timeouts)
        except OSError:
            return False  # it has ended

    def peer_address(self) -> tuple[int, Any] | None:
        """Returns where the peer is: the socket's family, and its address there; None where that is not known."""
        try:
            address = self._socket.getpeername()
        except OSError:
            return None  # it has ended
        return None if self._socket.family == socket.AF_UNIX else (self._socket.family, address)


def has_hung_up(connected: socket.socket) -> bool:
    """Returns whether the peer has closed the connection, whatever it had sent before; the socket does not block."""
    try:
        if sys.platform == "linux":
            poll = select.poll()
            poll.register(connected, select.POLLRDHUP)
            return bool(poll.poll(0))
        return not connected.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def close(connected: socket.socket) -> None:
    """Closes a socket that does not block; data that was handed to the system still arrives."""
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_WR)
        for _ in range(_LAST_READS):  # closing with unread data would discard data that is being sent
            if not connected.recv(_LAST_READ_BYTES):
                break
    connected.close()


def abort(connected: socket.socket) -> None:
    """Closes a socket by a reset, which waits for no data."""
    with contextlib.suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connected.close()
