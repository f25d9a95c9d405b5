"""A robot's connection to one server: made without blocking, and made again whenever it is lost.

It has no clock and never sleeps: its owner calls `poll` with the time whenever the selector that it registers with has
an event, and at `next_poll_at`. It does not look into messages.

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
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from inferential.client.keys import HandshakeMaker
from inferential.zmtp import ConnectionEnded, Stream
from inferential.zmtp.protocol import Buffer, Discarded, Frame
from inferential.zmtp.stream import socket_path

logger: logging.Logger = logging.getLogger("inferential.client")

CONNECT_S = 10.0
"""Longest time that connecting and the handshake may take before the next attempt."""
_AT_ONCE = frozenset({errno.ECONNREFUSED, errno.ENOENT})  # errors by which a machine says that no server is there
_REFUSED_WAIT_S = 0.7
"""The longest wait, without its jitter of as much, after one of these: of 300 robots one tries every 4 ms."""
_SHORTEST_WAIT_S = 1e-3
_FRAMES = 3  # empty, envelope, payload
_MAX_WARNINGS = 8  # different ones, of one outage

_Address = tuple[int, Any]  # address family and address


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
        self._make_handshake = make_handshake
        self._addresses: list[_Address] = []  # of the server, not tried yet
        self._resolver: _Resolver | None = None
        self._connecting: socket.socket | None = None
        self._stream: Stream | None = None
        self._writing = False
        self.more: bool = False
        """Whether there may be another message after the last one from `next`; if not, asking costs a system call."""
        self.ended: bool = False
        """Whether the connection was found closed; `poll` handles it."""
        self.last_error: str | None = "connecting"
        """Why there is no connection, in words; None while connected."""
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
            elif self._connecting is not None:
                self._finish_connecting(self._connecting, now)
            elif now >= self.next_poll_at or self._resolver is not None:
                self._begin(now)
        except (ConnectionEnded, OSError) as error:
            self._failed(now, error)
        return stood and not self.connected

    def try_send(self, frames: Sequence[Frame]) -> bool:
        """Sends a message; returns False while the server is away or an earlier message is not sent completely."""
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

    def close(self) -> None:
        """Closes the connection. Closing twice does nothing."""
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

    # Disconnected

    def _begin(self, now: float) -> None:
        """Connects to the server's next address; resolves its name first."""
        if not self._addresses:
            self._addresses = self._found()
            if not self._addresses:
                self.next_poll_at = now + CONNECT_S
                return  # the resolver wakes the selector
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
            return _addresses(host, port, 0 if host == "localhost" else socket.AI_NUMERICHOST)
        except socket.gaierror:
            self._resolver = _Resolver(host, port)
            self._selector.register(self._resolver.done, selectors.EVENT_READ)
            return []

    def _failed(self, now: float, error: Exception) -> None:
        """Closes the connection and sets the time of the next attempt."""
        stood = self.connected
        self.close()
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

    def _finish_connecting(self, connecting: socket.socket, now: float) -> None:
        code = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code or now >= self._give_up_at:
            code = code or errno.ETIMEDOUT
            raise OSError(code, os.strerror(code))
        try:
            connecting.getpeername()
        except OSError:
            return  # not yet
        handshake = None if self._make_handshake is None else self._make_handshake()
        stream = Stream(connecting, b"DEALER", self._identity, max_frames=_FRAMES, handshake=handshake)
        self._selector.modify(connecting, selectors.EVENT_READ)
        self._connecting, self._stream = None, stream
        self._advance(self._stream, now)

    # Connected

    def _advance(self, stream: Stream, now: float) -> None:
        if not self.connected:
            if not stream.handshake():
                if now >= self._give_up_at:
                    raise ConnectionEnded("no answer to the handshake")
                return
            self.connected = True
            self.writable = not self._writing
            self.last_error = None
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
                raise ConnectionEnded("no answer to heartbeats")
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
    """Resolves a host's name in a thread, since getaddrinfo may block for seconds."""

    def __init__(self, host: str, port: str) -> None:
        self.places: list[_Address] | None = None
        """The addresses, empty where there are none; None until the name is resolved."""
        self.done, self._tell = socket.socketpair()  # readable when done
        threading.Thread(target=self._find, args=(host, port), name="inferential-find-host", daemon=True).start()

    def _find(self, host: str, port: str) -> None:
        try:
            self.places = _addresses(host, port, 0)
        except OSError:
            self.places = []
        self._tell.close()

    def close(self) -> None:
        """Discards the outcome."""
        self.done.close()


def _addresses(host: str, port: str, flags: int) -> list[_Address]:
    found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=flags)
    # IPv4 first: servers that listen on every interface mostly do so by IPv4.
    return sorted(((int(family), place) for family, _, _, _, place in found), key=lambda one: one[0] != socket.AF_INET)
