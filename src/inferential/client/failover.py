"""Several servers: which of them a robot uses, and which one when that is away.

A robot uses one server at a time; the servers need not know each other.

Every robot has its own order of the servers, by rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings
to increase hit rates", 1998): the order of the hashes of its id with each address. So robots spread evenly over the
servers, and over the others when one goes; only the robots of that one move, and no coordination is needed.

A connection to each is kept, and an observation goes to the first connected server in the order. When a connection is
lost, the requests that were sent by it end too; when it is made again, observations use it again.
"""

from __future__ import annotations

import hashlib
import math
import selectors
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from inferential.client.arguments import addresses_of
from inferential.client.backoff import LinkTimeouts
from inferential.client.keys import HandshakeMaker, RobotKeys
from inferential.client.link import Link
from inferential.client.mailbox import Mailbox
from inferential.client.session import MAX_OPEN, Frames, Session
from inferential.client.transport import ClientTransport, SingleServer, fd_of, link_timeouts, normalize_address, receive
from inferential.zmtp.delivery import Delivery

# A server that vanished without closing its connections is noticed after a second, and the next one takes over.
HEARTBEAT_S, SILENCE_S = 0.25, 1.0
"""Between two heartbeats, and after how long without an answer a server counts as gone."""


def open_transport(
    server: str | Sequence[str],
    client_id: str,
    reconnect_ivl_ms: int,
    reconnect_max_ms: int,
    keys: RobotKeys | None = None,
) -> ClientTransport:
    """Returns the transport to a server, or to several: a sequence of addresses, or one text separated by commas.

    Raises:
        ValueError: an address cannot be used, two are the same, or there is not a key for each.
        TypeError: something is not an address.
    """
    servers = addresses_of(server)
    makers: list[HandshakeMaker | None] = [None] * len(servers)
    if keys is not None:
        makers[:] = keys.makers(client_id.encode(), len(servers))
    if len(servers) == 1:
        return SingleServer(servers[0], client_id, reconnect_ivl_ms, reconnect_max_ms, makers[0])
    addresses = [normalize_address(one) for one in servers]
    if not addresses or len(set(addresses)) < len(addresses):
        raise ValueError(f"server: expected addresses that differ, got {server!r}")
    order = rendezvous_order(addresses, client_id)
    handshakes = dict(zip(addresses, makers, strict=True))
    return ServerFailover(order, client_id, reconnect_ivl_ms, reconnect_max_ms, handshakes)


def rendezvous_order(addresses: Sequence[str], client_id: str) -> list[str]:
    """Returns the addresses in a robot's own order, its own server first."""
    return sorted(addresses, key=lambda address: hashlib.blake2b(f"{client_id}\n{address}".encode()).digest())


class _Server:
    """One of several."""

    def __init__(
        self,
        address: str,
        identity: bytes,
        timeouts: LinkTimeouts,
        selector: selectors.BaseSelector,
        make_handshake: HandshakeMaker | None,
    ) -> None:
        self.link = Link(address, identity, timeouts, selector, make_handshake=make_handshake)
        self.sent: dict[int, None] = {}
        """Ids of the newest requests that were sent to it, answered ones included."""

    def try_send(self, request_id: int, frames: Frames) -> bool:
        """Sends a message; returns False where it cannot be sent now."""
        if not self.link.try_send(frames):
            return False
        self.sent[request_id] = None
        if len(self.sent) > MAX_OPEN:
            del self.sent[next(iter(self.sent))]
        return True

    def poll(self, session: Session, now: float) -> int:
        """Reads all messages and polls the connection; returns the number of requests that ended."""
        ended = receive(self.link, session)
        if self.link.poll(now):
            ended += session.lost(self.sent, self.link.lost_reason)
            self.sent.clear()
        return ended


class ServerFailover:
    """A connection to each of several servers.

    Args:
        addresses: in the robot's order.
        client_id: the robot's.
        reconnect_ivl_ms, reconnect_max_ms: see `Connection`.
        handshakes: makes the handshake with each server, by address.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        client_id: str,
        reconnect_ivl_ms: int,
        reconnect_max_ms: int,
        handshakes: Mapping[str, HandshakeMaker | None] = MappingProxyType({}),
    ) -> None:
        timeouts = replace(
            link_timeouts(reconnect_ivl_ms, reconnect_max_ms), heartbeat_s=HEARTBEAT_S, silence_s=SILENCE_S
        )
        self._selector = selectors.DefaultSelector()
        self._servers = [
            _Server(address, client_id.encode(), timeouts, self._selector, handshakes.get(address))
            for address in addresses
        ]
        self.fd: int = fd_of(self._selector)
        self.closed: bool = False
        self._held = False  # an observation waits for a server, or until the link to it is clear
        now = time.monotonic()
        for server in self._servers:
            server.link.poll(now)

    def next_poll_at(self) -> float:
        if any(server.link.unread and server.link.connected for server in self._servers):
            return 0.0  # what was read of the socket already does not make it readable
        next_poll_at = min(server.link.next_poll_at for server in self._servers)
        server = self._first() if self._held else None
        if server is None or not server.link.writable:
            return next_poll_at
        return min(next_poll_at, server.link.delivery.clear_at)

    @property
    def writable(self) -> bool:
        return self._servers[0].link.writable

    def idle(self) -> bool:
        delivery = self.delivery
        if self._held or (delivery.clear_at and delivery.expects):
            return False
        return all(server.link.writable for server in self._servers)

    @property
    def delivery(self) -> Delivery:
        return (self._first() or self._servers[0]).link.delivery

    @property
    def last_error(self) -> str | None:
        if self._first() is not None:
            return None
        return "; ".join(f"{server.link.address}: {server.link.last_error}" for server in self._servers)

    def send(self, session: Session, mailbox: Mailbox, request_id: int, frames: Frames) -> bool:
        server = self._first()
        if (
            server is None
            or (mailbox.handle.queue == "latest" and server.link.delivery.clear_at > time.monotonic())
            or session.must_wait(mailbox)
            or not server.try_send(request_id, frames)
        ):
            self._held = True
            return session.hold(mailbox, request_id, frames)
        return False

    def received_s_ago(self) -> float:
        server = self._first()
        return math.inf if server is None else server.link.received_s_ago()

    def heard_s_ago(self) -> float:
        server = self._first()
        return math.inf if server is None else server.link.heard_s_ago()

    def pump(self, session: Session) -> int:
        now = time.monotonic()
        ended = sum(server.poll(session, now) for server in self._servers)
        while session.has_unsent() and (server := self._first()) is not None:
            unsent = session.next_unsent(now, latest=server.link.delivery.clear_at <= now)
            if unsent is None or not server.try_send(*unsent):
                break
            session.sent(unsent[0])
        self._held = session.has_unsent()
        return ended

    def cancel(self, session: Session, request_ids: Sequence[int]) -> None:
        for server in self._servers:
            sent = [request_id for request_id in request_ids if request_id in server.sent]
            if server.link.takes_cancellations:
                for frames in session.cancellations(sent):
                    server.link.try_send(frames)

    def nudge(self) -> None:
        server = self._first()
        if server is not None:
            server.link.nudge(time.monotonic())

    def close(self) -> None:
        self.closed = True
        for server in self._servers:
            server.link.close()
        self._selector.close()

    def _first(self) -> _Server | None:
        return next((server for server in self._servers if server.link.connected), None)
