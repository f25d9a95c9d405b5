"""Several servers: which of them a robot speaks to, and what becomes of it when that one goes.

It speaks to one at a time; that servers know nothing of each other is no concern of it.

Every robot has its own order of the servers, by rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings
to increase hit rates", 1998): the order of the hashes of its id with each address. So robots spread evenly over the
servers and over the others when one goes, only those of that one move, and nobody has to agree with anybody.

A connection to each is kept, and an observation goes to the first in the order whose connection stands. When a
connection ends, the requests that were sent by it end too; when it is made again, observations take it again.
"""

from __future__ import annotations

import hashlib
import select
import time
from collections.abc import Sequence

import zmq
from zmq.utils.monitor import parse_monitor_message

from inferential.client.session import MAX_OPEN, Frames, Mailbox, Session
from inferential.client.wire import OneServer, Wire, normalize_address, open_socket, readable, receive, try_send

# A server that stopped without ending its connections is missed after a second, and the next one takes over.
_HEARTBEAT_IVL_MS, _HEARTBEAT_TIMEOUT_MS = 250, 1000
_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED


def open_wire(server: str | Sequence[str], client_id: str, reconnect_ivl_ms: int, reconnect_max_ms: int) -> Wire:
    """The way to a server, or to several: a sequence of addresses, or one text with commas between them.

    Raises:
        ValueError: for an address that cannot be used, or two that are the same.
    """
    servers = [part.strip() for part in server.split(",")] if isinstance(server, str) else list(server)
    if len(servers) == 1:
        return OneServer(servers[0], client_id, reconnect_ivl_ms, reconnect_max_ms)
    addresses = [normalize_address(one) for one in servers]
    if not addresses or len(set(addresses)) < len(addresses):
        raise ValueError(f"server: expected addresses that differ, got {server!r}")
    return ManyServers(in_order(addresses, client_id), client_id, reconnect_ivl_ms, reconnect_max_ms)


def in_order(addresses: Sequence[str], client_id: str) -> list[str]:
    """The addresses in a robot's own order, its own server first."""
    return sorted(addresses, key=lambda address: hashlib.blake2b(f"{client_id}\n{address}".encode()).digest())


class _Server:
    """One of several."""

    def __init__(self, address: str, client_id: str, reconnect_ivl_ms: int, reconnect_max_ms: int) -> None:
        heartbeats = (_HEARTBEAT_IVL_MS, _HEARTBEAT_TIMEOUT_MS)
        self.address = address
        self.monitor: zmq.Socket[bytes] | None = None
        self.socket = open_socket(
            address, client_id, reconnect_ivl_ms, reconnect_max_ms, heartbeats=heartbeats, before=self._watch
        )
        assert self.monitor is not None
        self.fds: list[int] = [int(socket.getsockopt(zmq.FD)) for socket in (self.socket, self.monitor)]
        self.connected: bool = False
        self.sent: dict[int, None] = {}
        """Requests that it was sent; of those that were answered the newest stay for a while."""

    def _watch(self, socket: zmq.Socket[bytes]) -> None:
        self.monitor = socket.get_monitor_socket(_EVENTS)

    def try_send(self, request_id: int, frames: Frames) -> bool:
        """Whether the message is on its way."""
        if not try_send(self.socket, frames):
            return False
        self.sent[request_id] = None
        if len(self.sent) > MAX_OPEN:
            del self.sent[next(iter(self.sent))]
        return True

    def read(self, session: Session) -> int:
        """Reads all that came; gives the number of messages."""
        count = 0
        while readable(self.socket):
            receive(self.socket, session)
            count += 1
        return count

    def look(self, session: Session) -> int:
        """Reads all that came, and what became of the connection; gives the number of requests that ended."""
        ended = self.read(session)
        if self.note_connection():
            ended += self.read(session)  # what it answered before it went
            ended += session.lost(self.sent, f"the connection to {self.address} ended before the answer came")
            self.sent.clear()
        return ended

    def note_connection(self) -> bool:
        """Reads what became of the connection; whether one ended."""
        assert self.monitor is not None
        one_ended = False
        while readable(self.monitor):
            event = parse_monitor_message(self.monitor.recv_multipart())["event"]
            self.connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            one_ended = one_ended or not self.connected
        return one_ended

    def close(self) -> None:
        assert self.monitor is not None
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=0)


class ManyServers:
    """A connection to each of several servers.

    Args:
        addresses: in the robot's order.
        client_id: the robot's.
        reconnect_ivl_ms, reconnect_max_ms: as of `Connection`.
    """

    def __init__(self, addresses: Sequence[str], client_id: str, reconnect_ivl_ms: int, reconnect_max_ms: int) -> None:
        self._servers: list[_Server] = []
        self.closed = False
        try:
            for address in addresses:
                self._servers.append(_Server(address, client_id, reconnect_ivl_ms, reconnect_max_ms))
        except BaseException:
            self.close()
            raise

    @property
    def fds(self) -> list[int]:
        return [fd for server in self._servers for fd in server.fds]

    def send(self, session: Session, mailbox: Mailbox, request_id: int, frames: Frames) -> bool:
        server = self._first()
        if session.has_unsent or server is None or not server.try_send(request_id, frames):
            return session.hold(mailbox, request_id, frames)
        return False

    def pump(self, session: Session) -> int:
        ended = sum(server.look(session) for server in self._servers)
        while session.has_unsent and (server := self._first()) is not None:
            unsent = session.next_unsent()
            if unsent is None or not server.try_send(*unsent):
                break
            session.sent()
        # Sending may have consumed the signal that something came.
        return ended + sum(server.read(session) for server in self._servers)

    def wait_writable(self, timeout_ms: int) -> bool:
        first = self._first()
        if first is not None and first is self._servers[0]:
            return bool(first.socket.poll(timeout_ms, zmq.POLLOUT))
        # The robot's own server is waited for; in the end another one is good enough.
        poller, deadline = select.poll(), time.monotonic() + timeout_ms / 1e3
        for fd in self.fds:
            poller.register(fd, select.POLLIN)
        while not self._servers[0].connected and (left_s := deadline - time.monotonic()) > 0:
            poller.poll(left_s * 1e3)
            for server in self._servers:
                server.note_connection()
        return self._first() is not None

    def close(self) -> None:
        self.closed = True
        for server in self._servers:
            server.close()

    def _first(self) -> _Server | None:
        return next((server for server in self._servers if server.connected), None)
