"""The DEALER socket of a robot: how it is set up, and how messages enter and leave it.

It waits for nothing but the making of a connection: `client.sync` and `client.aio` each wait in their own way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import zmq

from inferential.client.session import Frames, Mailbox, Session

# Of one connection, this many observations may wait in the socket. Few, because what waits there grows stale and
# cannot be taken back; what does not fit waits in the session, where a newer observation takes its place.
SEND_HWM = 2
RECV_HWM = 1000
# A robot that drove out of reach notices within seconds, not when TCP gives up after minutes.
HEARTBEAT_IVL_MS = 1000
HEARTBEAT_TIMEOUT_MS = 5000
# What zmq.Socket adds around these (options as enums, trackers) costs more than the calls themselves.
_send: Callable[..., Any] = zmq.backend.Socket.send
_recv: Callable[..., Any] = zmq.backend.Socket.recv
_get: Callable[..., Any] = zmq.backend.Socket.get
_EVENTS, _POLLIN, _POLLOUT = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.POLLOUT)
_NOBLOCK, _NOBLOCK_MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)

COPY_LIMIT_BYTES = 256 * 1024  # below it a copy is cheaper than keeping the sender's memory alive


def normalize_address(server: str) -> str:
    """`server` with tcp:// put before it where no transport is named.

    Raises:
        ValueError: for an address that no server can have.
    """
    address = server if "://" in server else f"tcp://{server}"
    transport, _, place = address.partition("://")
    port = place.rpartition(":")[2]
    # ZeroMQ takes a port modulo 65536, and lets inproc addresses pass that nobody listens on.
    if transport not in ("tcp", "ipc") or (transport == "tcp" and not (port.isdecimal() and 0 < int(port) < 65_536)):
        raise ValueError(_bad_address(server))
    return address


def open_socket(
    server: str,
    client_id: str,
    reconnect_ivl_ms: int,
    reconnect_max_ms: int,
    *,
    heartbeats: tuple[int, int] = (HEARTBEAT_IVL_MS, HEARTBEAT_TIMEOUT_MS),
    before: Callable[[zmq.Socket[bytes]], None] | None = None,
) -> zmq.Socket[bytes]:
    """A connecting DEALER socket; the connection itself is made by ZeroMQ's own thread.

    Args:
        server, client_id, reconnect_ivl_ms, reconnect_max_ms: as of `Connection`.
        heartbeats: interval and time-out in milliseconds.
        before: called with the socket before it connects.

    Raises:
        ValueError: for an address that ZeroMQ does not understand, or a time that is none.
    """
    address = normalize_address(server)
    for name, value in (("reconnect_ivl_ms", reconnect_ivl_ms), ("reconnect_max_ms", reconnect_max_ms)):
        if not isinstance(value, int) or not 0 <= value < 2**31:
            raise ValueError(f"{name}: expected whole milliseconds of 0 or more, got {value!r}")
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, client_id.encode())
    socket.setsockopt(zmq.RECONNECT_IVL, reconnect_ivl_ms)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, reconnect_max_ms)
    socket.setsockopt(zmq.SNDHWM, SEND_HWM)
    socket.setsockopt(zmq.RCVHWM, RECV_HWM)
    socket.setsockopt(zmq.LINGER, 0)
    # Nothing is queued for a server that is away: what was observed then is stale when it comes back.
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.HEARTBEAT_IVL, heartbeats[0])
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, heartbeats[1])
    if before is not None:
        before(socket)
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        socket.close()
        raise ValueError(f"{_bad_address(server)} ({error})") from error
    return socket


def _bad_address(server: str) -> str:
    return f"server: expected HOST:PORT, tcp://HOST:PORT or ipc://PATH, got {server!r}"


class Wire(Protocol):
    """The way to the server, or to one of several."""

    @property
    def fds(self) -> list[int]:
        """Descriptors that become readable when `pump` has something to do; edges, not levels."""
        ...

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        ...

    def send(self, session: Session, mailbox: Mailbox, request_id: int, frames: Frames) -> bool:
        """Sends an observation, or leaves it with the session where no server can be reached.

        Returns whether another request ended by it, which somebody may wait for.
        """
        ...

    def pump(self, session: Session) -> int:
        """Sends what waits and reads all that came; gives the number of requests that it ended."""
        ...

    def wait_writable(self, timeout_ms: int) -> bool:
        """Waits until a message can be sent; False if that takes longer."""
        ...

    def close(self) -> None:
        """Ends the connection."""
        ...


class OneServer:
    """A socket and its one server.

    Raises:
        ValueError: as `open_socket`.
    """

    def __init__(self, server: str, client_id: str, reconnect_ivl_ms: int, reconnect_max_ms: int) -> None:
        self._socket = open_socket(server, client_id, reconnect_ivl_ms, reconnect_max_ms)
        self.fds = [int(self._socket.getsockopt(zmq.FD))]

    @property
    def closed(self) -> bool:
        return self._socket.closed

    def send(self, session: Session, mailbox: Mailbox, request_id: int, frames: Frames) -> bool:
        if session.has_unsent or not try_send(self._socket, frames):
            return session.hold(mailbox, request_id, frames)
        return False

    def pump(self, session: Session) -> int:
        read = 0
        while True:
            # Asking for the events comes first: it is what makes ZeroMQ look at its mailbox (a send may skip that, and
            # fail on a connection that has just been made), and it consumes the signal of the descriptor.
            events = _get(self._socket, _EVENTS)
            sent = session.has_unsent and bool(events & _POLLOUT) and self._send_unsent(session)
            if events & _POLLIN:
                receive(self._socket, session)
                read += 1
            elif not sent:
                return read

    def _send_unsent(self, session: Session) -> bool:
        """Whether anything that waited was sent."""
        sent = False
        while (unsent := session.next_unsent()) is not None and try_send(self._socket, unsent[1]):
            session.sent()
            sent = True
        return sent

    def wait_writable(self, timeout_ms: int) -> bool:
        return bool(self._socket.poll(timeout_ms, zmq.POLLOUT))

    def close(self) -> None:
        self._socket.close(linger=0)


def try_send(socket: zmq.Socket[bytes], frames: Frames) -> bool:
    """Whether the socket took the message."""
    try:
        _send(socket, b"", _NOBLOCK_MORE)
        _send(socket, frames[1], _NOBLOCK_MORE)
        _send(socket, frames[2], _NOBLOCK, len(frames[2]) < COPY_LIMIT_BYTES)
    except zmq.Again:
        return False
    return True


def receive(socket: zmq.Socket[bytes], session: Session) -> None:
    """Reads one message that is there."""
    received = [_recv(socket, _NOBLOCK, False)]
    while received[-1].more:
        received.append(_recv(socket, _NOBLOCK, False))
    if len(received) == 3:
        session.receive(received[1].bytes, received[2].buffer, time.monotonic())
    else:
        session.stats.unmatched += 1


def readable(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message is there."""
    return bool(_get(socket, _EVENTS) & _POLLIN)
