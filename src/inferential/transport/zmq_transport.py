"""A ZeroMQ ROUTER socket without libzmq, watched by the event loop itself.

A client is known by the identity that it sends in the handshake; a client that sends none gets a generated one, which
begins with a zero byte. A client that connects again under its identity replaces its former connection
(ZMQ_ROUTER_HANDOVER), and sending to a client that is not connected is an error (ZMQ_ROUTER_MANDATORY).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import selectors
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from inferential.transport.connections import ClientConnection, DuplicateIds, MalformedMessage, send_buffered
from inferential.transport.handshakes import HandshakeGuard
from inferential.transport.listening import listen
from inferential.transport.messages import IncomingObservation, OutgoingResponse, Received
from inferential.zmtp import ConnectionEnded, ProtocolError, Stream
from inferential.zmtp.handshake import HandshakeError
from inferential.zmtp.protocol import Allocate, Buffer, Discarded

if TYPE_CHECKING:
    from inferential.config.schema import TransportConfig

__all__ = ["HANDSHAKE_S", "LINGER_MS", "MalformedMessage", "ZmqTransport"]

logger = logging.getLogger("inferential.transport")

LINGER_MS = 500
"""On close, how long to wait for unsent messages, in milliseconds."""
HANDSHAKE_S = 10.0
"""Connections that have not finished the handshake after so many seconds are closed."""
SEND_WAIT_S = 1.0
"""How long `send` waits for connections in their handshake, if its client is not connected yet."""
_FRAMES = 3  # empty, envelope, payload
_ACCEPT_AT_ONCE = 16
_POLL_AFTER = 16  # messages returned between two polls of all connections
_MAX_DIRECT_READS = 16  # reads from an only client between two polls of all connections
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ACCEPT_RETRY_S = 1.0


class ZmqTransport:
    """A bound ROUTER socket.

    Args:
        config: the address, and how many messages may wait for a client.
        max_message_bytes: a larger frame closes its sender's connection before memory is allocated; None: no limit.
        guard: decides who may connect; None: all may.
        allocate: returns memory for a large frame, or None: new memory.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(
        self,
        config: TransportConfig,
        max_message_bytes: int | None = None,
        guard: HandshakeGuard | None = None,
        allocate: Allocate | None = None,
    ) -> None:
        self._allocate = allocate
        try:
            self._listener = listen(config.bind)
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(error.errno, f"transport.bind: cannot listen on {config.bind!r}: {reason}") from error
        self.address = self._listener.address
        self._send_hwm = config.send_hwm
        self._max_frame_bytes = max_message_bytes
        self._guard = HandshakeGuard() if guard is None else guard
        # One descriptor for the event loop, however many clients are connected: all messages that have arrived are read
        # in one turn of the loop, and can go into one batch.
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener.socket, selectors.EVENT_READ)
        self._clients: dict[bytes, ClientConnection] = {}
        self._handshaking: dict[ClientConnection, None] = {}  # connections in their handshake, oldest first
        self._ready: deque[ClientConnection] = deque()  # clients that may have a message, in the order of their turns
        self._returned = 0  # messages since the last poll
        self._direct_reads = 0  # since the last poll of all connections
        self._names = itertools.count(1)
        self._duplicate_ids = DuplicateIds()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_readable: Callable[[], None] | None = None
        self._readable: asyncio.Event | None = None
        self._handshake_timer: asyncio.TimerHandle | None = None
        self._closed = False

    def watch(self, on_readable: Callable[[], None]) -> None:
        """Makes the running event loop call `on_readable` whenever there may be a message to receive."""
        self._loop = asyncio.get_running_loop()
        self._on_readable = on_readable
        self._loop.add_reader(self._selector_fd(), on_readable)
        self._loop.call_soon(on_readable)

    def _selector_fd(self) -> int:
        return self._selector.fileno()

    # Receiving

    def receive(self) -> Received | None:
        """Returns the next message, None if there is none; clients take turns.

        Raises:
            MalformedMessage: the next message has the wrong frames; it is dropped, and the next call returns the one
                after it.
        """
        if not self._ready and self._returned:
            self._returned = 0
            return None  # a message that has arrived since makes the selector readable again
        if not self._ready or self._returned >= _POLL_AFTER:
            self._poll()
        while self._ready:
            client = self._ready.popleft()
            stream = client.stream
            try:
                frames = stream.next()
            except ConnectionEnded as error:
                self._drop(client, str(error))
                continue
            if stream.unsent:
                self._update_events(client)  # a reply to its heartbeat
            if frames is None:
                client.queued = False
                continue
            if stream.buffered():
                if client.gone:
                    self._ready.appendleft(client)  # these are older than the messages of its successor
                else:
                    self._ready.append(client)
            else:
                client.queued = False
            self._returned += 1
            if isinstance(frames, list) and len(frames) == _FRAMES and not len(frames[0]):
                return client.identity, frames[1], frames[2], time.monotonic()
            found = "more" if isinstance(frames, Discarded) else f"{len(frames)} of them"
            raise MalformedMessage(client.identity, f"expected frames [empty, envelope, payload], got {found}")
        return None

    def _poll(self) -> None:
        """Reads from every readable connection whose earlier messages have been returned; accepts new ones."""
        if not self._closed and not self._read_only_client():
            self._poll_all()
        self._returned = 0

    def _poll_all(self) -> None:
        self._direct_reads = 0
        for key, events in self._selector.select(0):
            client: ClientConnection | None = key.data
            if client is None:
                self._accept()
            elif not client.gone:  # else an earlier event of this loop closed it
                self._handle_events(client, events)

    def _handle_events(self, client: ClientConnection, events: int) -> None:
        """Reads from and writes to a connection, as far as it is ready."""
        try:
            if events & selectors.EVENT_WRITE:
                client.stream.flush()
                self._update_events(client)
            if events & selectors.EVENT_READ:
                self._read(client)
        except ConnectionEnded as error:
            if client in self._handshaking:
                self._guard.failed(client.host, error, time.monotonic())
            self._drop(client, str(error))

    def _read_only_client(self) -> bool:
        """Reads directly from the client if it is the only one; returns whether it had a message.

        That spares a call of the selector. New connections wait for a few such reads at most.
        """
        if len(self._clients) != 1 or self._handshaking or self._direct_reads >= _MAX_DIRECT_READS:
            return False
        (client,) = self._clients.values()
        if client.queued or client.stream.unsent:
            return False
        self._direct_reads += 1
        self._handle_events(client, selectors.EVENT_READ)
        return client.queued

    def _read(self, client: ClientConnection) -> None:
        if client.queued:
            return  # its earlier messages are returned first; otherwise ever more would be buffered
        if client.identity:
            received = client.stream.read()
        elif client.stream.handshake():
            self._register(client)
            received = True
        else:
            return
        if received:
            client.queued = True
            self._ready.append(client)

    def _accept(self) -> None:
        now = time.monotonic()
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                accepted, place = self._listener.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _NO_DESCRIPTORS:
                    continue  # the connection is closed already
                if not self._handshaking:
                    self._accept_later(error)
                    return
                # A robot finishes its handshake within milliseconds; idle connections must not keep robots out.
                self._drop(next(iter(self._handshaking)), "no file descriptor is left for a newer connection")
                continue
            host = place[0] if isinstance(place, tuple) else ""
            try:
                if self._guard.refuses(host, now):
                    raise ConnectionEnded("too many handshakes have failed")
                handshake = self._guard.handshake()
                stream = Stream(accepted, b"ROUTER", b"", self._max_frame_bytes, _FRAMES, handshake, self._allocate)
                client = ClientConnection(stream, now + HANDSHAKE_S, host)
                self._selector.register(client.stream, client.events, client)
            except (OSError, ConnectionEnded):
                accepted.close()
                continue
            self._handshaking[client] = None
            if self._handshake_timer is None:
                self._expire_handshakes()

    def _expire_handshakes(self) -> None:
        """Closes connections whose handshake takes too long, and sets the timer for the next one."""
        now = time.monotonic()
        while self._handshaking and (oldest := next(iter(self._handshaking))).handshake_deadline <= now:
            slow = HandshakeError(f"it was not finished within {HANDSHAKE_S:g} s", "slow")
            self._guard.failed(oldest.host, slow, now)
            self._drop(oldest, str(slow))
        self._handshake_timer = None
        if self._handshaking and self._loop is not None:
            self._handshake_timer = self._loop.call_later(
                next(iter(self._handshaking)).handshake_deadline - now, self._expire_handshakes
            )

    def _accept_later(self, error: OSError) -> None:
        """Stops accepting for a while: without a free descriptor the listener would stay readable."""
        logger.error(
            "cannot accept connections for %g s: %s; raise the limit of open files (ulimit -n)",
            _ACCEPT_RETRY_S,
            error.strerror,
        )
        self._selector.unregister(self._listener.socket)
        if self._loop is not None:
            self._loop.call_later(_ACCEPT_RETRY_S, self._accept_again)

    def _accept_again(self) -> None:
        if not self._closed:
            self._selector.register(self._listener.socket, selectors.EVENT_READ)

    def _register(self, client: ClientConnection) -> None:
        """Registers a client whose handshake is done."""
        other = client.stream.peer
        assert other is not None
        if (objection := self._guard.objection(other)) is not None:
            raise objection
        if other.identity.startswith(b"\0"):
            raise ProtocolError("an identity must not begin with a zero byte: those are generated")
        identity = other.identity or b"\0" + next(self._names).to_bytes(8)
        former = self._clients.get(identity)
        if former is not None:
            self._duplicate_ids.note(identity)
            self._drop(former, "the client connected again")
        del self._handshaking[client]
        client.identity = identity
        self._clients[identity] = client

    def _drop(self, client: ClientConnection, reason: str) -> None:
        """Closes a connection, or cleans up after one that was closed."""
        if client.gone:
            return
        client.gone = True
        logger.debug("connection of %r closed: %s", client.identity, reason)
        self._handshaking.pop(client, None)
        if self._clients.get(client.identity) is client:
            del self._clients[client.identity]
        self._selector.unregister(client.stream)
        client.stream.close()

    def drop_revoked(self) -> None:
        """Ends the connections of clients whose keys are not accepted any more."""
        for client in list(self._clients.values()):
            if (objection := self._guard.objection(client.stream.peer)) is not None:
                logger.warning("connection ended: %s", objection)
                self._drop(client, str(objection))

    def sizes(self) -> dict[str, int]:
        """Returns the number of connections and of buffered messages."""
        return {
            "connections": len(self._clients),
            "connections_handshaking": len(self._handshaking),
            "connections_ready": len(self._ready),
            "messages_unsent": sum(client.stream.unsent for client in self._clients.values()),
        }

    # Sending

    def post(self, identity: bytes, envelope: Buffer, payload: Buffer) -> None:
        """Sends a message without waiting; what the system does not take at once is buffered.

        Raises:
            OSError: the client is not connected (EHOSTUNREACH), or does not read and `send_hwm` messages are buffered
                for it (EAGAIN).
        """
        client = self._clients.get(identity)
        if client is None:
            raise OSError(errno.EHOSTUNREACH, "the client is not connected")
        if client.stream.unsent >= self._send_hwm:
            raise OSError(errno.EAGAIN, f"the client does not read: {self._send_hwm} messages are buffered for it")
        try:
            client.stream.send((b"", envelope, payload))
        except ConnectionEnded as error:
            self._drop(client, str(error))
            raise OSError(errno.EHOSTUNREACH, f"the client disconnected: {error}") from error
        if client.stream.unsent:
            self._update_events(client)

    def _update_events(self, client: ClientConnection) -> None:
        """Watches for writability while a client has unsent messages."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.stream.unsent else 0)
        if events != client.events:
            client.events = events
            self._selector.modify(client.stream, events, client)

    # Used alone, without a server

    async def recv(self) -> IncomingObservation:
        """Waits for the next well-formed message and returns it.

        Raises:
            OSError: the transport is closed, or is closed meanwhile.
        """
        readable = self._watch_alone()
        while True:
            if self._closed:
                raise OSError(errno.ENOTSOCK, "the transport is closed")
            readable.clear()
            try:
                received = self.receive()
            except MalformedMessage:
                await asyncio.sleep(0)  # other tasks get their turn, however many of these arrive
                continue
            if received is not None:
                return IncomingObservation(*received)
            await readable.wait()

    async def send(self, response: OutgoingResponse) -> None:
        """Sends a message; if its client is not connected, waits first for connections in their handshake.

        Raises:
            OSError: as `post`; for a client that is not connected after up to `SEND_WAIT_S` seconds.
        """
        identity = response.identity
        if identity not in self._clients and not self._closed:
            readable = self._watch_alone()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SEND_WAIT_S):
                    self._poll_all()
                    while identity not in self._clients and self._handshaking:
                        readable.clear()
                        await readable.wait()
                        self._poll_all()
            if self._ready:
                readable.set()  # for a concurrent `recv`
        self.post(identity, response.envelope, response.payload)

    def _watch_alone(self) -> asyncio.Event:
        """Returns an event that is set whenever the selector is readable; for use without a server."""
        if self._readable is None:
            self._readable = asyncio.Event()
            if not self._closed:
                self.watch(self._readable.set)
        return self._readable

    async def close(self) -> None:
        """Stops listening, and waits up to `LINGER_MS` for unsent messages. Closing twice is allowed."""
        if self._closed:
            return
        self._closed = True
        if self._loop is not None:
            self._loop.remove_reader(self._selector_fd())
        if self._handshake_timer is not None:
            self._handshake_timer.cancel()
        self._listener.close()
        unsent = [client for client in self._clients.values() if client.stream.unsent]
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_MS / 1e3):
                    await asyncio.gather(*map(send_buffered, unsent))
        finally:  # also if this is cancelled
            for client in [*self._clients.values(), *self._handshaking]:
                self._drop(client, "the server is shutting down")
            self._ready.clear()
            self._selector.close()
            if self._readable is not None:
                self._readable.set()
