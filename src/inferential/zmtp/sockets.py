"""What is asked of a stream socket of any family: a look at what is unread, and a close that loses nothing."""

from __future__ import annotations

import contextlib
import select
import socket
import sys

_LAST_READS, _LAST_READ_BYTES = 64, 64 * 1024  # on closing, of data that is discarded


def has_unread(connected: socket.socket) -> bool:
    """Returns whether the system has bytes of the peer that were not read; the socket does not block."""
    try:
        return bool(connected.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


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
