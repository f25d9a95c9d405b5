"""What the system does for a TCP connection: keepalive, what it holds unsent, and when it received something."""

from __future__ import annotations

import contextlib
import math
import socket
import sys

_KEEPALIVE = {
    "TCP_KEEPIDLE": 30,
    "TCP_KEEPALIVE": 30,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 60_000,
}
"""The system notices within a minute, not two hours, that a peer is gone: the server sends no heartbeats, and a robot
out of reach would hold a descriptor. By TCP_USER_TIMEOUT Linux also closes a connection whose peer has
acknowledged nothing for that long (milliseconds). TCP_KEEPALIVE is macOS's name for TCP_KEEPIDLE."""
_LINUX = {16: 1, 44: 1000}
"""TCP_THIN_LINEAR_TIMEOUTS and TCP_RTO_MAX_MS (Linux 6.15), which Python does not name: where little is under way, lost
data is sent again at a steady pace at first, and never more than a second apart, so that a network that was away for
some seconds is used soon after."""
_RETRANSMITS_AT = 2  # of tcpi_retransmits in Linux's struct tcp_info: time-outs since something was acknowledged
_LAST_RECEIVED_AT = 52  # of tcpi_last_data_recv in Linux's struct tcp_info
_ROUND_TRIP_AT = 68  # of tcpi_rtt, in microseconds


def prepare(connected: socket.socket) -> None:
    """Sets the options of a connection, if it is not a local one."""
    if connected.family == socket.AF_UNIX:
        return
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    for option, value in _LINUX.items() if sys.platform == "linux" else ():
        with contextlib.suppress(OSError):  # an older Linux
            connected.setsockopt(socket.IPPROTO_TCP, option, value)


def prepare_attempt(connecting: socket.socket, retries: int) -> None:
    """Sets the options of a connection that is to be made, if it is not a local one; Linux has them.

    The connection is completed by the packet of the first data, which are sent at once then, and not by one of its own:
    nothing is sent twice as much as that may be lost, and the server has the data when it accepts.

    Args:
        connecting: its socket.
        retries: how often it is asked for again. One that was asked for more than twice begins with a single packet
            under way (RFC 5681, section 3.1).
    """
    if connecting.family == socket.AF_UNIX:
        return
    for name, value in (("TCP_QUICKACK", 0), ("TCP_SYNCNT", retries)):
        if hasattr(socket, name):
            connecting.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def limit_unsent(connected: socket.socket, size: int) -> None:
    """Has the system hold about so many bytes at most beyond those that are under way.

    On systems without TCP_NOTSENT_LOWAT, and for local connections, nothing changes.
    """
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None and connected.family != socket.AF_UNIX:
        connected.setsockopt(socket.IPPROTO_TCP, option, size)


def received_s_ago(connected: socket.socket) -> float:
    """Returns how long ago the system received the newest data, read or not, in seconds; nan if it does not say.

    Linux says so of TCP, by whole milliseconds.
    """
    if sys.platform != "linux" or connected.family == socket.AF_UNIX:
        return math.nan
    info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_RECEIVED_AT + 4)
    return int.from_bytes(info[_LAST_RECEIVED_AT:], sys.byteorder) / 1e3


def round_trip_s(connected: socket.socket) -> float:
    """Returns the connection's round trip in seconds, as the system smooths it; 0 if it does not say.

    Linux says so of TCP.
    """
    if sys.platform != "linux" or connected.family == socket.AF_UNIX:
        return 0.0
    info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ROUND_TRIP_AT + 4)
    return int.from_bytes(info[_ROUND_TRIP_AT:], sys.byteorder) / 1e6


def is_stuck(connected: socket.socket, timeouts: int) -> bool:
    """Returns whether the system has had so many time-outs since it got an answer; False if it does not say.

    Where the peer's program only does not read, its system answers. Linux says so of TCP; before the first time-out it
    has sent the newest data twice mostly (RFC 8985, tail loss probe).
    """
    if sys.platform != "linux" or connected.family == socket.AF_UNIX:
        return False
    info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RETRANSMITS_AT + 1)
    return info[_RETRANSMITS_AT] >= timeouts
