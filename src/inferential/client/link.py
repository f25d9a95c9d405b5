"""A robot's connection to one server: made without waiting, kept, and made again whenever it is lost.

It has no clock and sleeps for nothing: its owner calls `look` with the time, whenever the selector that it registers
with has something and when `next_poll_at` has come. What is said over the connection is not its business.

    away, until `next_poll_at`  ->  connecting  ->  shaking hands  ->  connected
          ^                        |                |                 |
          +------------------------+----------------+-----------------+   the wait doubles, until it was connected
"""

from __future__ import annotations

import errno
import logging
import os
import random
import selectors
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from inferential.zmtp import ConnectionEnded, Stream
from inferential.zmtp.protocol import Buffer, Discarded, Frame
from inferential.zmtp.stream import socket_path

logger = logging.getLogger("inferential.client")

CONNECT_S = 10.0
"""Longest that connecting and shaking hands may take before it is tried anew."""
_SHORTEST_WAIT_S = 1e-3
_FRAMES = 3  # empty, envelope, payload

_Address = tuple[int, Any]  # of the system's own address family, the address itself


@dataclass(frozen=True, slots=True)
class LinkTimeouts:
    """How long is waited for what, in seconds."""

    reconnect_s: float
    """Before the first attempt to connect again."""
    reconnect_max_s: float
    """Between attempts, at most."""
    heartbeat_s: float = 1.0
    """Between heartbeats: a robot that drove out of reach notices within seconds, not when TCP gives up."""
    silence_s: float = 5.0
    """After a heartbeat with no sign of life the connection counts as lost; while a large message leaves, its leaving
    is one."""


class Link:
    """A connection to a server, be it there or not.

    Args:
        address: tcp://HOST:PORT or ipc://PATH.
        identity: what the server knows the client by.
        timeouts: how long is waited for what.
        selector: is told of the socket, so that it wakes whoever waits with it.
        jitter: gives numbers from 0 to 1, by which robots that lost their server at once come back one by one.
    """

    def __init__(
        self,
        address: str,
        identity: bytes,
        timeouts: LinkTimeouts,
        selector: selectors.BaseSelector,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.address = address
        self.connected = False
        """Whether messages can be sent."""
        self.writable = False
        """Whether it is connected, and all that was to be sent has left."""
        self.next_poll_at = 0.0
        """When to call `look` though nothing has come, in seconds of `time.monotonic()`."""
        self._identity = identity
        self._timeouts = timeouts
        self._selector = selector
        self._jitter = jitter
        self._addresses: list[_Address] = []  # those of the server that were not tried yet
        self._resolver: _Resolver | None = None
        self._connecting: socket.socket | None = None
        self._stream: Stream | None = None
        self._writing = False
        self.more = False
        """Whether there may be more than `next` gave last: if not, whoever asks wakes the system for nothing."""
        self.ended = False
        """The connection stood, and was found to have ended; for `look` to see to."""
        self.last_error: str | None = "the connection is being made"
        """Why there is no connection, in words; None while it stands."""
        self._warned = False
        self._give_up_at = 0.0
        self._wait_s = timeouts.reconnect_s

    def poll(self, now: float) -> bool:
        """Goes on with whatever can go on; True where a connection that stood has ended.

        What was received before it ended is for `next` to give first: read until that gives None, then look.
        """
        stood = self.connected
        try:
            if self._stream is not None:
                self._advance(self._stream, now)
            elif self._connecting is not None:
                self._finish_connecting(self._connecting, now)
            elif now >= self.next_poll_at or self._resolver is not None:
                self._begin(now)
        except (ConnectionEnded, OSError) as error:
            self._failed(now, error)
        return stood and not self.connected

    def try_send(self, frames: Sequence[Frame]) -> bool:
        """Whether the message is on its way: not while the server is away, nor before the last one has left."""
        if self._stream is None or not self.writable:
            return False
        try:
            self._stream.send(frames)
        except ConnectionEnded:
            self._note_end()
            return False
        if self._stream.unsent:
            self._watch_writability(self._stream)
        return True

    def next(self) -> list[Buffer] | Discarded | None:
        """The next message that came, None where none has come whole."""
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
                self._watch_writability(stream)  # an answer to a heartbeat
        self.more = stream.buffered() or not stream.drained
        return found

    def close(self) -> None:
        """Ends the connection. Closing twice is fine."""
        self.connected = self.writable = self._writing = self.ended = False
        if self._resolver is not None:
            self._selector.unregister(self._resolver.done)
            self._resolver.close()
            self._resolver = None
        for opened in (self._stream, self._connecting):
            if opened is not None:
                self._selector.unregister(opened)
                opened.close()
        self._stream = self._connecting = None

    # Away

    def _begin(self, now: float) -> None:
        """Connects to the server's next address; finds out what they are first."""
        if not self._addresses:
            self._addresses = self._found()
            if not self._addresses:
                self.next_poll_at = now + CONNECT_S
                return  # the finder wakes us
        family, place = self._addresses.pop(0)
        self._connecting = socket.socket(family, socket.SOCK_STREAM)
        self._connecting.setblocking(False)
        self._selector.register(self._connecting, selectors.EVENT_WRITE)
        code = self._connecting.connect_ex(place)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        self.next_poll_at = self._give_up_at = now + CONNECT_S
        if code == 0:
            self._finish_connecting(self._connecting, now)

    def _found(self) -> list[_Address]:
        """The server's addresses; none as long as they are looked for, which may take seconds."""
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
                raise OSError(errno.EHOSTUNREACH, f"nothing is known of {name}")
            return found
        host, _, port = name.rpartition(":")
        host = host.strip("[]")
        try:
            return _addresses(host, port, 0 if host == "localhost" else socket.AI_NUMERICHOST)
        except socket.gaierror:
            self._resolver = _Resolver(host, port)
            self._selector.register(self._resolver.done, selectors.EVENT_READ)
            return []

    def _failed(self, now: float, error: Exception) -> None:
        """It is away: to be tried again, after a while."""
        stood = self.connected
        self.close()
        self.last_error = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        if not self._warned:
            self._warned = True
            logger.warning("no connection to %s: %s; it is tried again and again", self.address, self.last_error)
        if stood:
            self._wait_s = self._timeouts.reconnect_s
            self._addresses.clear()  # it may be elsewhere by now
        if self._addresses:
            self.next_poll_at = now
            return
        self.next_poll_at = now + max(self._wait_s + self._jitter() * self._timeouts.reconnect_s, _SHORTEST_WAIT_S)
        self._wait_s = max(min(2 * self._wait_s, self._timeouts.reconnect_max_s), self._wait_s)

    # Connecting and shaking hands

    def _finish_connecting(self, connecting: socket.socket, now: float) -> None:
        code = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code or now >= self._give_up_at:
            code = code or errno.ETIMEDOUT
            raise OSError(code, os.strerror(code))
        try:
            connecting.getpeername()
        except OSError:
            return  # not yet
        stream = Stream(connecting, b"DEALER", self._identity, max_frames=_FRAMES)
        self._selector.modify(connecting, selectors.EVENT_READ)
        self._connecting, self._stream = None, stream
        self._advance(self._stream, now)

    # Connected

    def _advance(self, stream: Stream, now: float) -> None:
        if not self.connected:
            if not stream.handshake():
                if now >= self._give_up_at:
                    raise ConnectionEnded("it does not answer")
                return
            self.connected = True
            self.writable = not self._writing
            self.last_error = None
            if self._warned:
                self._warned = False
                logger.warning("connected to %s", self.address)
            self._wait_s = self._timeouts.reconnect_s
            self.next_poll_at = now + self._timeouts.heartbeat_s
            return
        if self.ended:
            raise ConnectionEnded("it ended")
        if self._writing:
            stream.flush()
            self._watch_writability(stream)
        if now < self.next_poll_at:
            return
        if not stream.alive:
            if now >= self._give_up_at:
                raise ConnectionEnded("it gives no sign of life")
            self.next_poll_at = self._give_up_at
        else:
            stream.ping()
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


class _Resolver:
    """Looks for a host's addresses in a thread, since the system's own call for it may take seconds."""

    def __init__(self, host: str, port: str) -> None:
        self.places: list[_Address] | None = None
        """What was found, nothing where there is none; None as long as it is looked for."""
        self.done, self._tell = socket.socketpair()  # readable once it is
        threading.Thread(target=self._find, args=(host, port), name="inferential-find-host", daemon=True).start()

    def _find(self, host: str, port: str) -> None:
        try:
            self.places = _addresses(host, port, 0)
        except OSError:
            self.places = []
        self._tell.close()

    def close(self) -> None:
        """Forgets about it."""
        self.done.close()


def _addresses(host: str, port: str, flags: int) -> list[_Address]:
    found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=flags)
    # Of a name with both, servers that listen on every interface have the older kind.
    return sorted(((int(family), place) for family, _, _, _, place in found), key=lambda one: one[0] != socket.AF_INET)
