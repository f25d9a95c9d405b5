"""Accepts connections, and decides which of them has an identity.

A connection that comes under the identity of another does not replace it (as libzmq's ZMQ_ROUTER_HANDOVER would) before
that one was asked by a PING: a robot that restarted has left nothing that answers, and takes over. Of two live robots
with one id the one that was there keeps its place; the other is a rival, whose requests are refused with the reason,
until the first has gone.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from inferential.notices import Notices
from inferential.transport.connections import ClientConnection, Connections
from inferential.transport.descriptors import is_among_last
from inferential.transport.handshakes import HandshakeGuard
from inferential.transport.held import UNSENT_BYTES
from inferential.transport.listening import Listener
from inferential.transport.poller import READ
from inferential.transport.silent import SETTLED_S, SILENT
from inferential.zmtp import ConnectionEnded, ProtocolError, Stream
from inferential.zmtp.handshake import HandshakeError
from inferential.zmtp.reader import Allocate

if TYPE_CHECKING:
    from inferential.config.addresses import SecurityMode

logger: logging.Logger = logging.getLogger("inferential.transport")

HANDSHAKE_S = 10.0
"""Connections that have not finished the handshake after so many seconds are closed; after twice as many where the
network takes so long for `_SLOW_ROUND_TRIPS` round trips."""
_SLOW_ROUND_TRIPS = 4
_ACCEPT_AT_ONCE = 16
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
ACCEPT_RETRY_S = 1.0
"""How long no connection is accepted after descriptors ran out."""
_ANSWER_S = 0.4
"""How long a connection has to answer when another one comes under its identity."""
SPEAKS_S = 0.9
"""How long it has to send anything, where it knows no PING."""
_MAX_FRAMES = 3  # empty, envelope, payload


class Acceptance:
    """Accepts from listening sockets into a table of connections.

    Args:
        connections: the table.
        listeners: what listens, and the mode of security that each has of its own.
        max_frame_bytes: a larger frame ends its connection; None: no limit.
        on_admitted: called with a connection that was not read while another one had its identity, and is now.
        guard: decides who may connect.
        allocate: returns memory for a large frame, or None: new memory.
    """

    def __init__(
        self,
        connections: Connections,
        listeners: list[tuple[Listener, SecurityMode | None]],
        max_frame_bytes: int | None,
        on_admitted: Callable[[ClientConnection], None],
        guard: HandshakeGuard,
        allocate: Allocate | None,
    ) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connections = connections
        self._on_admitted = on_admitted
        self._guard = guard
        self._allocate = allocate
        self._listeners = listeners
        self._max_frame_bytes = max_frame_bytes
        self._numbers = itertools.count(1)
        self._rivals: dict[bytes, dict[ClientConnection, None]] = {}  # by identity, first come first
        self._timers: dict[bytes, asyncio.TimerHandle] = {}  # by identity: the end of its time to answer
        self._handshake_timer: asyncio.TimerHandle | None = None
        self._retry_timer: asyncio.TimerHandle | None = None
        self._notices = Notices(logger)
        self.on_return: Callable[[ClientConnection], None] | None = None
        """Called with a connection whose robot has made another one; it is to read the rest of it, and to end it."""
        self.on_registered: Callable[[ClientConnection], None] | None = None
        """Called with each connection that has an identity which its robot has chosen."""
        # Given up for a moment where there is no other: to accept a connection, and close it, needs one.
        self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._accept_again()
        connections.on_closed.append(self._on_closed)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Sets timers on this loop from now on."""
        self._loop = loop

    def close(self) -> None:
        """Stops listening."""
        for timer in (self._handshake_timer, self._retry_timer, *self._timers.values()):
            if timer is not None:
                timer.cancel()
        for listener, _ in self._listeners:
            listener.close()
        os.close(self._reserve)

    # Accepting

    def accept(self) -> None:
        """Accepts the connections that wait, up to a number from each socket."""
        for listener, security in self._listeners:
            for listening in listener.sockets:
                self._accept_from(listening, security)

    def _accept_from(self, listening: socket.socket, security: SecurityMode | None) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                accepted, place = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _NO_DESCRIPTORS:
                    continue  # the connection is closed already
                if self._make_room():
                    continue
                if not SILENT.end_one():  # else there is room in the next turn of the loop
                    self._refuse_one(listening, error)
                return
            now = time.monotonic()
            host = f"{place[0]}:{place[1]}" if isinstance(place, tuple) else ""
            try:
                if self._guard.refuses(_machine_of(host), now):
                    raise ConnectionEnded("too many handshakes have failed")
                handshake = self._guard.handshake(security)
                stream = Stream(accepted, b"ROUTER", b"", self._max_frame_bytes, _MAX_FRAMES, handshake, self._allocate)
                client = ClientConnection(stream, now, now + HANDSHAKE_S, host)
                self._connections.poller.register(accepted.fileno(), client.events, client)
            except (OSError, ConnectionEnded):
                accepted.close()
                continue
            self._connections.handshaking[client] = None
            if is_among_last(accepted.fileno()) and not self._make_room():
                SILENT.end_one()
            if self._handshake_timer is None:
                self._expire_handshakes()

    def _make_room(self) -> bool:
        """Closes a connection that says nothing for longer than a robot takes; False where there is none."""
        settled = time.monotonic() - SETTLED_S
        oldest = next(iter(self._connections.handshaking), None)
        if oldest is not None and oldest.accepted_at <= settled:
            self._connections.drop(oldest, "no file descriptor is left for a newer connection")
            return True
        for client in self._connections.by_number.values():
            if not client.asked and client.accepted_at <= settled:
                self._notices.say(
                    "idle", "connection of %s closed: it never asked, and descriptors are needed", client.host
                )
                self._connections.drop(client, "no file descriptor is left for a newer connection")
                return True
        return False

    def _refuse_one(self, listening: socket.socket, error: OSError) -> None:
        """Closes the connection that waits longest, so that its robot knows, and stops accepting for a while."""
        self._notices.say(
            "descriptors",
            "cannot accept connections for %g s: %s; raise the limit of open files (ulimit -n)",
            ACCEPT_RETRY_S,
            error.strerror,
            level=logging.ERROR,
        )
        os.close(self._reserve)
        try:
            listening.accept()[0].close()
        except OSError:
            pass  # it has gone, or another program took the descriptor: it waits in the system's queue
        finally:
            self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        # Without a free descriptor the listeners would stay readable.
        if self._retry_timer is None:
            for one in self._sockets():
                self._connections.poller.unregister(one.fileno())
            if self._loop is not None:
                self._retry_timer = self._loop.call_later(ACCEPT_RETRY_S, self._accept_again)

    def _accept_again(self) -> None:
        self._retry_timer = None
        for listening in self._sockets():
            self._connections.poller.register(listening.fileno(), READ, None)

    def _sockets(self) -> Iterator[socket.socket]:
        for listener, _ in self._listeners:
            yield from listener.sockets

    def _expire_handshakes(self) -> None:
        """Closes connections whose handshake takes too long, and sets the timer for the next one."""
        now, handshaking = time.monotonic(), self._connections.handshaking
        while handshaking and (oldest := next(iter(handshaking))).handshake_deadline <= now:
            took_s = oldest.handshake_deadline - oldest.accepted_at
            is_slow = oldest.stream.round_trip_s() * _SLOW_ROUND_TRIPS >= HANDSHAKE_S
            if is_slow and took_s < 1.5 * HANDSHAKE_S:
                oldest.handshake_deadline = now + HANDSHAKE_S
                handshaking[oldest] = handshaking.pop(oldest)  # behind those whose time is over before
                continue
            slow = HandshakeError(f"it was not finished within {took_s:g} s", "slow")
            self._guard.failed(_machine_of(oldest.host), slow, now)
            self._connections.drop(oldest, str(slow))
        self._handshake_timer = None
        if handshaking and self._loop is not None:
            self._handshake_timer = self._loop.call_later(
                next(iter(handshaking)).handshake_deadline - now, self._expire_handshakes
            )

    def failed(self, client: ClientConnection, error: ConnectionEnded) -> None:
        """Says why a connection was closed that broke a rule."""
        if client in self._connections.handshaking:
            self._guard.failed(_machine_of(client.host), error, time.monotonic())
        elif isinstance(error, ProtocolError):
            who = client.identity.decode("utf-8", "replace") or client.host
            self._notices.say((_machine_of(client.host), type(error)), "connection of %r closed: %s", who, error)

    # Identities

    def register(self, client: ClientConnection) -> None:
        """Gives a client whose handshake is done its number, and its identity unless another connection has that.

        Raises:
            ProtocolError: its identity is not allowed.
        """
        peer = client.stream.peer
        assert peer is not None
        if (objection := self._guard.objection(peer)) is not None:
            raise objection
        if peer.identity.startswith(b"\0"):
            raise ProtocolError("an identity must not begin with a zero byte: those are generated")
        connections = self._connections
        client.number = next(self._numbers)
        client.identity = peer.identity or b"\0" + client.number.to_bytes(8)
        client.life = peer.life if peer.identity else b""
        client.stream.limit_unsent(UNSENT_BYTES)
        del connections.handshaking[client]
        connections.by_number[client.number] = client
        former = connections.by_identity.get(client.identity)
        if former is not None and self.on_return is not None and client.life and former.life == client.life:
            self.on_return(former)
            former = connections.by_identity.get(client.identity)
        if former is None:
            connections.by_identity[client.identity] = client
            if peer.identity and self.on_registered is not None:
                self.on_registered(client)
            return
        client.rival = True
        # It is not read before it is known whether it has the identity.
        client.parked_at = time.monotonic()
        connections.update_events(client)
        self._rivals.setdefault(client.identity, {})[client] = None
        self._ask(former)

    def drop_revoked(self) -> None:
        """Ends the connections of clients whose keys are not accepted any more."""
        for client in list(self._connections.by_number.values()):
            if (objection := self._guard.objection(client.stream.peer)) is not None:
                logger.warning("connection ended: %s", objection)
                self._connections.drop(client, str(objection))

    def objection(self, client: ClientConnection) -> str | None:
        """Returns why a connection's requests are refused; None if they are not."""
        if not client.rival:
            return None
        keeper = self._connections.by_identity.get(client.identity)
        where = keeper.host if keeper is not None else ""
        name = client.identity.decode("utf-8", "replace")
        return f"the client id {name!r} is in use by another robot{f' at {where}' if where else ''}: give each its own"

    def ask(self, identity: bytes) -> None:
        """Ends the connection with this identity unless it lives: a robot without one came back, whose id it has."""
        keeper = self._connections.by_identity.get(identity)
        if keeper is not None and self._loop is not None:
            self._ask(keeper)

    def _ask(self, keeper: ClientConnection) -> None:
        """Asks a connection whether it lives, unless it was asked just now."""
        identity = keeper.identity
        if identity in self._timers:
            return
        if self._loop is None:
            self._take_over(keeper)
            return
        try:
            keeper.stream.ping()
        except ConnectionEnded as error:
            self._connections.drop(keeper, str(error))
            return
        keeper.stream.alive = False
        self._connections.resume(keeper)
        within_s = _ANSWER_S if keeper.stream.answers_pings else SPEAKS_S
        self._timers[identity] = self._loop.call_later(within_s, self._on_answer_due, keeper)

    def _on_answer_due(self, keeper: ClientConnection) -> None:
        del self._timers[keeper.identity]
        rivals = self._rivals.get(keeper.identity)
        if not (keeper.stream.alive or keeper.stream.has_unread()):  # it may wait to be read where the loop stood
            self._take_over(keeper)
            return
        if not rivals:
            return
        newest = next(reversed(rivals))
        name = keeper.identity.decode("utf-8", "replace")
        self._notices.say(
            keeper.identity,
            "client id %r is used by two robots: that at %s keeps it, requests of that at %s are refused",
            *(name, keeper.host, newest.host),
            level=logging.WARNING,
        )
        for rival in rivals:
            self._admit(rival)
        # What was received may have been sent before its end: it is asked again while there is a rival.
        self._ask(keeper)

    def _admit(self, client: ClientConnection) -> None:
        if client.parked_at:
            self._connections.resume(client)
            self._on_admitted(client)

    def _take_over(self, former: ClientConnection) -> None:
        named = not former.identity.startswith(b"\0")
        name = former.identity.decode("utf-8", "replace") if named else former.host
        self._notices.say(
            (former.identity, "replaced"), "client %r connected again: its former connection does not answer", name
        )
        self._connections.drop(former, "the client connected again")

    def _on_closed(self, client: ClientConnection) -> None:
        """Gives the identity of a connection that has ended to the newest of its rivals, which is asked as it was."""
        rivals = self._rivals.get(client.identity, {})
        rivals.pop(client, None)
        if client.rival and rivals:
            return
        timer = self._timers.pop(client.identity, None)
        if timer is not None:
            timer.cancel()
        if not rivals:
            self._rivals.pop(client.identity, None)
            return
        heir, _ = rivals.popitem()
        heir.rival = False
        self._connections.by_identity[heir.identity] = heir
        self._admit(heir)
        if rivals:
            self._ask(heir)
        else:
            self._rivals.pop(client.identity, None)


def _machine_of(host: str) -> str:
    """Returns the address of HOST:PORT; "" of a local client, which has none."""
    return host.rpartition(":")[0]
