"""TCP keepalive: the kernel finds out that a peer's machine is gone, however long its program is busy."""

from __future__ import annotations

import socket

_IDLE_S = 15
_INTERVAL_S = 5
_PROBES = 3
_UNACKNOWLEDGED_MS = 60_000
_OPTIONS = (("TCP_KEEPIDLE", _IDLE_S), ("TCP_KEEPINTVL", _INTERVAL_S), ("TCP_KEEPCNT", _PROBES))


def enable_keepalive(connection: socket.socket) -> None:
    """Has a TCP connection end about 30 s after its peer's machine is gone, or 60 s where it was sent something.

    Unlike a ping of the protocol on top, it is answered while the peer's program computes. Options that the system
    does not have are left out.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (*_OPTIONS, ("TCP_USER_TIMEOUT", _UNACKNOWLEDGED_MS)):
        option = getattr(socket, name, None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
