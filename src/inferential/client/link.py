"""A robot's connection to one server: made without blocking, and made again whenever it is lost.

It never sleeps: its owner calls `poll` with the time whenever the selector that it registers with has an event, and at
`next_poll_at`. It does not look into messages.

    away, until `next_poll_at`  ->  connecting  ->  shaking hands  ->  connected
          ^                        |                |                 |
          +------------------------+----------------+-----------------+   the wait doubles, until it was connected
"""

from __future__ import annotations

import errno
import logging
import math
import os
import random
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inferential.client.keys import HandshakeMaker
from inferential.client.resolver import Address, Resolver, find_addresses
from inferential.zmtp import ConnectionEnded, Stream
from inferential.zmtp.delivery import Delivery
from inferential.zmtp.handshake import NullHandshake
from inferential.zmtp.ipc import socket_path
from inferential.zmtp.protocol import Buffer, Discarded, Frame

logger: logging.Logger = logging.getLogger("inferential.client")

CONNECT_S = 10.0
"""Longest time that connecting and the handshake may take before the next attempt."""
_NEXT_ADDRESS_S = 0.25
"""How long an address has before the server's next one is tried beside it (RFC 8305, section 5)."""
_AT_ONCE = frozenset({errno.ECONNREFUSED, errno.ENOENT})  # errors by which a machine says that no server is there
_REFUSED_WAIT_S = 0.7
"""The longest wait, without its jitter of as much, after one of these: of 300 robots one tries every 4 ms."""
_SHORTEST_WAIT_S = 1e-3
_FRAMES = 3  # empty, envelope, payload
_MAX_WARNINGS = 8  # different ones, of one outage

_LEAST_UNSENT_BYTES, _MOST_UNSENT_BYTES = 16 * 1024, 256 * 1024
"""Bounds of what the system may hold of a robot's data beyond what is under way; about a round trip of it."""


@dataclass(frozen=True, slots=True)
class LinkTimeouts:
    """The times of a link, in seconds."""

    reconnect_s: float
    """Before the first attempt to reconnect."""
    reconnect_max_s: float
    """Between attempts, at most."""
    heartbeat_s: float = 1.0
    """Between heartbeats, so that a robot out of reach notices within seconds, not when TCP gives up."""
    silence_s: float = 5.0
    """After a heartbeat without an answer the connection counts as lost; while a large message is sent, its progress
    counts as an answer."""


class _Silent(ConnectionEnded):
    """The server did not answer in time."""


class Link:
    """A connection to a server, which may be away.

    Args:
        address: tcp://HOST:PORT or ipc://PATH.
        identity: the client id in UTF-8.
        timeouts: its times.
        selector: the socket is registered with it.
        jitter: returns numbers from 0 to 1; they spread the attempts of robots that lost their server at the same time.
        make_handshake: makes the handshake of each attempt; None: without keys.
    """

    def __init__(
        self,
        address: str,
        identity: bytes,
        timeouts: LinkTimeouts,
        selector: selectors.BaseSelector,
        jitter: Callable[[], float] = random.random,
        make_handshake: HandshakeMaker | None = None,
    ) -> None:
        self.address = address
        self.connected: bool = False
        """Whether messages can be sent."""
        self.writable: bool = False
        """Whether it is connected and everything was handed to the system."""
        self.next_poll_at: float = 0.0
        """When to call `poll` without an event, in seconds of `time.monotonic()`."""
        self._identity = identity
        self._timeouts = timeouts
        self._selector = selector
        self._jitter = jitter
        self._make_handshake = make_handshake or (lambda life: NullHandshake(b"DEALER", identity, life=life))
        self.life: bytes = b""
        """Said to the server: it keeps what it owes to this robot for another connection of the same life; b"": not."""
        self._addresses: list[Address] = []  # of the server, not tried yet
        self._resolver: Resolver | None = None
        self._attempts: dict[socket.socket, None] = {}  # connections that are being made, the oldest first
        self._next_attempt_at = 0.0
        self._stream: Stream | None = None
        self.delivery: Delivery = Delivery()
        """What the connection carries, and what is under way."""
        self._limited = False
        self._writing = False
        self.more: bool = False
        """Whether there may be another message after the last one from `next`; if not, asking costs a system call."""
        self.unread: bool = False
        """Whether messages were left to be read later, as there are so many; `client.transport.receive` sets it."""
        self.ended: bool = False
        """Whether the connection was found closed; `poll` handles it."""
        self.last_error: str | None = "connecting"
        """Why there is no connection, in words; None while connected."""
        self.silent: bool = False
        """Whether there is no connection only as nothing was heard of the server: it may live and be busy."""
        self.keeps_answers: bool = False
        """Whether the server of the last connection keeps what it owes to a robot that comes back."""
        self._warned: set[str] = set()  # what was logged since it was connected
        self._give_up_at = 0.0
        self._wait_s = timeouts.reconnect_s

    def poll(self, now: float) -> bool:
        """Connects, continues the handshake, sends data and heartbeats; returns True where a connection was lost.

        Messages that were received before are still to be read: call `next` until it returns None, then `poll`.
        """
        stood = self.connected
        try:
            if self._stream is not None:
                self._advance(self._stream, now)
            elif self._attempts:
                self._continue_connecting(now)
            elif now >= self.next_poll_at or self._resolver is not None:
                self._begin(now)
        except (ConnectionEnded, OSError) as error:
            self._failed(now, error)
        return stood and not self.connected

    def try_send(self, frames: Sequence[Frame]) -> bool:
        """Sends a message; returns False while the server is away or an earlier message is not sent completely."""
        if self._stream is None or not self.writable:
            return False
        delivery = self.delivery
        payload = frames[2]
        size = len(frames[1]) + (sum(map(len, payload)) if type(payload) is list else len(payload))
        delivery.unmarked += size
        try:
            if delivery.unmarked < delivery.mark_every or not self._stream.answers_pings:
                self._stream.send(frames)
            else:
                self._stream.send_marked(frames, *delivery.send(size, time.monotonic()))
        except ConnectionEnded:
            self._note_end()
            return False
        if self._stream.unsent:
            self._watch_writability(self._stream)
        return True

    def _on_pong(self, context: bytes) -> None:
        delivery = self.delivery
        delivery.pong(context, time.monotonic())
        if delivery.is_thin != self._limited and self._stream is not None:
            # What the system held would be out of date when it leaves; on a good link a low limit costs wakeups.
            self._limited = delivery.is_thin
            window = (delivery.rate_bytes_s or 0.0) * (delivery.round_trip_s or 0.0)
            least = _LEAST_UNSENT_BYTES if self._limited else _MOST_UNSENT_BYTES
            self._stream.limit_unsent(round(min(max(window, least), _MOST_UNSENT_BYTES)))

    def next(self) -> list[Buffer] | Discarded | None:
        """Returns the next message, None where none is complete."""
        stream = self._stream
        if stream is None or not self.connected:
            return None
        try:
            found = stream.receive()
        except ConnectionEnded:
            self._note_end()
            return None
        finally:
            if stream.unsent:
                self._watch_writability(stream)  # the answer to a heartbeat
        self.more = stream.buffered() or not stream.drained
        return found

    def received_s_ago(self) -> float:
        """Returns how long ago the system received the newest data, in seconds.

        Infinite while there is no connection; nan where the system does not say.
        """
        return math.inf if self._stream is None else self._stream.received_s_ago()

    @property
    def takes_cancellations(self) -> bool:
        """Whether the server is connected and understands that requests are taken back."""
        peer = None if self._stream is None else self._stream.peer
        return self.writable and peer is not None and bool(peer.extensions)

    @property
    def drained(self) -> bool:
        """Whether all that has arrived was read."""
        return self._stream is None or self._stream.drained

    def close(self) -> None:
        """Closes the connection. Closing twice does nothing."""
        self.connected = self.writable = self._writing = self.ended = False
        self.delivery = Delivery()
        if self._resolver is not None:
            self._selector.unregister(self._resolver.done)
            self._resolver.close()
            self._resolver = None
        for attempt in list(self._attempts):
            self._end_attempt(attempt)
        if self._stream is not None:
            self._selector.unregister(self._stream)
            self._stream.close()
        self._stream = None

    # Disconnected

    def _begin(self, now: float) -> None:
        """Connects to the server's next address; resolves its name first."""
        if not self._addresses:
            self._addresses = self._found()
            if not self._addresses:
                self.next_poll_at = now + CONNECT_S
                return  # the resolver wakes the selector
        self._give_up_at = now + CONNECT_S
        self._try_next(now)
        self._continue_connecting(now)

    def _try_next(self, now: float) -> None:
        """Begins a connection to the next address, beside those that are being made."""
        family, place = self._addresses.pop(0)
        attempt = socket.socket(family, socket.SOCK_STREAM)
        attempt.setblocking(False)
        code = attempt.connect_ex(place)
        if code not in (0, errno.EINPROGRESS):
            attempt.close()
            self._fail_attempt(OSError(code, os.strerror(code)), now)
            return
        self._attempts[attempt] = None
        self._selector.register(attempt, selectors.EVENT_WRITE)
        self._next_attempt_at = now + _NEXT_ADDRESS_S

    def _fail_attempt(self, error: OSError, now: float) -> None:
        """Goes on with the next address at once; raises the error where nothing else is being tried."""
        if not self._attempts:
            raise error
        if self._addresses:
            self._try_next(now)

    def _end_attempt(self, attempt: socket.socket) -> None:
        del self._attempts[attempt]
        self._selector.unregister(attempt)
        attempt.close()

    def _found(self) -> list[Address]:
        """Returns the server's addresses; none while its name is being resolved, which may take seconds."""
        kind, _, name = self.address.partition("://")
        if kind == "ipc":
            return [(socket.AF_UNIX, socket_path(name))]
        if self._resolver is not None:
            found, finder = self._resolver.places, self._resolver
            if found is None:
                return []
            self._selector.unregister(finder.done)
            finder.close()
            self._resolver = None
            if not found:
                raise OSError(errno.EHOSTUNREACH, f"cannot resolve {name}")
            return found
        host, _, port = name.rpartition(":")
        host = host.strip("[]")
        try:
            return find_addresses(host, port, 0 if host == "localhost" else socket.AI_NUMERICHOST)
        except socket.gaierror:
            self._resolver = Resolver(host, port)
            self._selector.register(self._resolver.done, selectors.EVENT_READ)
            return []

    def _failed(self, now: float, error: Exception) -> None:
        """Closes the connection and sets the time of the next attempt."""
        stood = self.connected
        self.close()
        self.silent = isinstance(error, _Silent) or (isinstance(error, OSError) and error.errno == errno.ETIMEDOUT)
        self.last_error = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        if self.last_error not in self._warned and len(self._warned) < _MAX_WARNINGS:
            self._warned.add(self.last_error)
            logger.warning("cannot connect to %s (%s); retrying with backoff", self.address, self.last_error)
        if stood:
            self._wait_s = self._timeouts.reconnect_s
            self._addresses.clear()  # its address may have changed
        if self._addresses:
            self.next_poll_at = now
            return
        wait_s, spread_s = self._wait_s, self._timeouts.reconnect_s
        if isinstance(error, OSError) and error.errno in _AT_ONCE and wait_s > _REFUSED_WAIT_S:
            # The machine says that no server listens: asking again costs nothing, and the robots wait for its restart.
            wait_s = spread_s = _REFUSED_WAIT_S
        self.next_poll_at = now + max(wait_s + self._jitter() * spread_s, _SHORTEST_WAIT_S)
        self._wait_s = max(min(2 * self._wait_s, self._timeouts.reconnect_max_s), self._wait_s)

    # Connecting and handshake

    def _continue_connecting(self, now: float) -> None:
        """Uses the first connection that was made, and begins another where the others take long."""
        for attempt in list(self._attempts):
            code = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._end_attempt(attempt)
                self._fail_attempt(OSError(code, os.strerror(code)), now)
            elif _is_connected(attempt):
                self._use(attempt, now)
                return
        if now >= self._give_up_at:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        if self._addresses and now >= self._next_attempt_at:
            self._try_next(now)
        self.next_poll_at = min(self._give_up_at, self._next_attempt_at) if self._addresses else self._give_up_at

    def _use(self, connected: socket.socket, now: float) -> None:
        handshake = self._make_handshake(self.life)
        stream = Stream(connected, b"DEALER", self._identity, max_frames=_FRAMES, handshake=handshake)
        del self._attempts[connected]
        for attempt in list(self._attempts):
            self._end_attempt(attempt)
        self._selector.modify(connected, selectors.EVENT_READ)
        self._stream = stream
        self.delivery, self._limited = Delivery(), False
        stream.on_pong = self._on_pong
        self.next_poll_at = self._give_up_at = now + CONNECT_S
        self._advance(stream, now)

    # Connected

    def _advance(self, stream: Stream, now: float) -> None:
        if not self.connected:
            if not stream.handshake():
                if now >= self._give_up_at:
                    raise _Silent("no answer to the handshake")
                return
            self.connected = True
            self.writable = not self._writing
            self.last_error = None
            self.keeps_answers = stream.peer is not None and stream.peer.keeps_answers
            if self._warned:
                self._warned.clear()
                logger.warning("connected to %s", self.address)
            self._wait_s = self._timeouts.reconnect_s
            self.next_poll_at = now + self._timeouts.heartbeat_s
            return
        if self.ended:
            raise ConnectionEnded("connection closed")
        if self._writing:
            stream.flush()
            self._watch_writability(stream)
        if now < self.next_poll_at:
            return
        if not stream.alive:
            if now >= self._give_up_at:
                raise _Silent("no answer to heartbeats")
            self.delivery.stall()
            self.next_poll_at = self._give_up_at
        else:
            stream.ping(self.delivery.ping(now) if not stream.unsent and self.delivery.uncertain else b"")
            self._watch_writability(stream)
            self._give_up_at = now + self._timeouts.silence_s
            self.next_poll_at = now + self._timeouts.heartbeat_s

    def _note_end(self) -> None:
        self.ended, self.writable = True, False

    def _watch_writability(self, stream: Stream) -> None:
        if self._writing != bool(stream.unsent):
            self._writing = bool(stream.unsent)
            self.writable = self.connected and not self._writing and not self.ended
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._writing else 0)
            self._selector.modify(stream, events)


def _is_connected(attempt: socket.socket) -> bool:
    try:
        attempt.getpeername()
    except OSError:
        return False
    return True
