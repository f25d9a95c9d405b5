"""The address that robots connect to, as a ZeroMQ ROUTER does it, watched by the event loop itself.

It decides nothing: what a message means and who gets which answer is the server's business.

A client is known by the identity that it told on connecting; one that told none gets one that begins with a zero byte.
A client that connects anew under its identity takes over from its former connection (ZMQ_ROUTER_HANDOVER), and what is
sent to a client that is not there is an error (ZMQ_ROUTER_MANDATORY).
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

from inferential.errors import InferentialError
from inferential.transport.listening import listen
from inferential.transport.messages import IncomingObservation, OutgoingResponse, Received
from inferential.zmtp import ConnectionEnded, ProtocolError, Stream
from inferential.zmtp.protocol import Buffer, Discarded

if TYPE_CHECKING:
    from inferential.config.schema import TransportConfig

logger = logging.getLogger("inferential.transport")

LINGER_MS = 500
"""On close, how long answers that are on their way may still take."""
HANDSHAKE_S = 10.0
"""Who has not said by then who it is, is nobody."""
_FRAMES = 3  # empty, envelope, payload
_ACCEPT_AT_ONCE = 16
_LOOK_AFTER = 16  # messages, after which whoever else has something is looked for
_UNASKED = 16  # looks at a client that is alone, after which the system is asked who else has something
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ACCEPT_AGAIN_S = 1.0
_REMEMBERED_DOUBLES = 1024


class MalformedMessage(InferentialError):
    """A message that is not [identity, "", envelope, payload]."""

    def __init__(self, identity: bytes, reason: str) -> None:
        self.identity = identity
        self.reason = reason
        super().__init__(reason)


class _Client:
    """One connection."""

    __slots__ = ("events", "gone", "identity", "queued", "stream", "until")

    def __init__(self, stream: Stream, until: float) -> None:
        self.stream = stream
        self.until = until  # when the handshake must be over
        self.identity = b""  # until it is
        self.events = selectors.EVENT_READ
        self.queued = False  # among those that have something to say
        self.gone = False  # but its last words may not have been heard


class ZmqTransport:
    """A bound ROUTER.

    Args:
        config: where to listen, and what may wait for a client.
        max_message_bytes: a frame above it ends its sender's connection before memory is spent on it.

    Raises:
        OSError: where the address cannot be bound.
    """

    def __init__(self, config: TransportConfig, max_message_bytes: int | None = None) -> None:
        try:
            self._listener = listen(config.bind)
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(error.errno, f"transport.bind: cannot listen on {config.bind!r}: {reason}") from error
        self.address = self._listener.address
        self._send_hwm = config.send_hwm
        self._max_frame_bytes = max_message_bytes
        # One descriptor for the event loop, however many clients there are: all that came is read in one turn, and
        # goes into one batch.
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener.socket, selectors.EVENT_READ)
        self._clients: dict[bytes, _Client] = {}
        self._strangers: dict[_Client, None] = {}  # connections whose handshake is not over, oldest first
        self._talkers: deque[_Client] = deque()  # those that may have a message, in turn
        self._given = 0  # messages, since it was last looked who has any
        self._unasked = 0  # looks, since the system was last asked
        self._names = itertools.count(1)
        self._doubles: set[bytes] = set()  # identities that came while they were there
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_readable: Callable[[], None] | None = None
        self._arrived: asyncio.Event | None = None
        self._dismissal: asyncio.TimerHandle | None = None
        self._closed = False

    def watch(self, on_readable: Callable[[], None]) -> None:
        """Has the running event loop call `on_readable` whenever there may be something to receive."""
        self._loop = asyncio.get_running_loop()
        self._on_readable = on_readable
        self._loop.add_reader(self._selector_fd(), on_readable)
        self._loop.call_soon(on_readable)

    def _selector_fd(self) -> int:
        return self._selector.fileno()

    # What comes in

    def receive(self) -> Received | None:
        """The next message, None where there is none; clients take turns.

        Raises:
            MalformedMessage: the next message has the wrong frames; it is gone, go on with the next.
        """
        if not self._talkers and self._given:
            self._given = 0
            return None  # whoever else has something by now wakes us again
        if not self._talkers or self._given >= _LOOK_AFTER:
            self._look()
        while self._talkers:
            client = self._talkers.popleft()
            stream = client.stream
            try:
                frames = stream.next()
            except ConnectionEnded as error:
                self._drop(client, str(error))
                continue
            if stream.unsent:
                self._mind(client)  # an answer to its heartbeat
            if frames is None:
                client.queued = False
                continue
            if stream.buffered():
                if client.gone:
                    self._talkers.appendleft(client)  # its last words are older than what its successor says
                else:
                    self._talkers.append(client)
            else:
                client.queued = False
            self._given += 1
            if isinstance(frames, list) and len(frames) == _FRAMES and not len(frames[0]):
                return client.identity, frames[1], frames[2], time.monotonic()
            found = "more" if isinstance(frames, Discarded) else f"{len(frames)} of them"
            raise MalformedMessage(client.identity, f"expected frames [empty, envelope, payload], got {found}")
        return None

    def _look(self) -> None:
        """Reads from every client that has something and whose last words were heard; accepts who is new."""
        self._given = 0
        if self._closed or self._heard_alone():
            return
        self._unasked = 0
        for key, events in self._selector.select(0):
            client: _Client | None = key.data
            if client is None:
                self._accept()
            elif not client.gone:  # else another's event ended it, just now
                self._attend(client, events)

    def _attend(self, client: _Client, events: int) -> None:
        """Sees to what a client's connection is ready for."""
        try:
            if events & selectors.EVENT_WRITE:
                client.stream.flush()
                self._mind(client)
            if events & selectors.EVENT_READ:
                self._read(client)
        except ConnectionEnded as error:
            self._drop(client, str(error))

    def _heard_alone(self) -> bool:
        """Whether a client that is the only one had something: then the system is not asked who has.

        Others who come wait for a few looks at most.
        """
        if len(self._clients) != 1 or self._strangers or self._unasked >= _UNASKED:
            return False
        (client,) = self._clients.values()
        if client.queued or client.stream.unsent:
            return False
        self._unasked += 1
        self._attend(client, selectors.EVENT_READ)
        return client.queued

    def _read(self, client: _Client) -> None:
        if client.queued:
            return  # first what it said before is heard: ever more of it would be kept otherwise
        if client.identity:
            heard = client.stream.read()
        elif client.stream.handshake():
            self._welcome(client)
            heard = True
        else:
            return
        if heard:
            client.queued = True
            self._talkers.append(client)

    def _accept(self) -> None:
        until = time.monotonic() + HANDSHAKE_S
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                accepted, _ = self._listener.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _NO_DESCRIPTORS:
                    continue  # that one is gone already
                if not self._strangers:
                    self._accept_later(error)
                    return
                # Robots shake hands within milliseconds; whoever opens connections and says nothing keeps none out.
                self._drop(next(iter(self._strangers)), "somebody else needs its descriptor")
                continue
            try:
                client = _Client(Stream(accepted, b"ROUTER", b"", self._max_frame_bytes, _FRAMES), until)
                self._selector.register(client.stream, client.events, client)
            except (OSError, ConnectionEnded):
                accepted.close()
                continue
            self._strangers[client] = None
            if self._dismissal is None:
                self._dismiss()

    def _dismiss(self) -> None:
        """Ends connections whose time to say who they are is over; again when that of the next one is."""
        now = time.monotonic()
        while self._strangers and (oldest := next(iter(self._strangers))).until <= now:
            self._drop(oldest, f"it did not say within {HANDSHAKE_S:g} s who it is")
        self._dismissal = None
        if self._strangers and self._loop is not None:
            self._dismissal = self._loop.call_later(next(iter(self._strangers)).until - now, self._dismiss)

    def _accept_later(self, error: OSError) -> None:
        """There is no descriptor to be had: the listener would be ready again and again."""
        logger.error("no connection can be accepted for %g s: %s", _ACCEPT_AGAIN_S, error.strerror)
        self._selector.unregister(self._listener.socket)
        if self._loop is not None:
            self._loop.call_later(_ACCEPT_AGAIN_S, self._accept_again)

    def _accept_again(self) -> None:
        if not self._closed:
            self._selector.register(self._listener.socket, selectors.EVENT_READ)

    def _welcome(self, client: _Client) -> None:
        """A client has said who it is."""
        peer = client.stream.peer
        assert peer is not None
        if peer.identity.startswith(b"\0"):
            raise ProtocolError("identities that begin with a zero byte are for those that tell none")
        identity = peer.identity or b"\0" + next(self._names).to_bytes(8)
        former = self._clients.get(identity)
        if former is not None:
            if identity not in self._doubles:
                if len(self._doubles) < _REMEMBERED_DOUBLES:
                    self._doubles.add(identity)
                logger.warning(
                    "client %r connected while its former connection stood, and takes its place: it came back, or two "
                    "robots have one id (said once)",
                    identity.decode("utf-8", "replace"),
                )
            self._drop(former, "it connected anew")
        del self._strangers[client]
        client.identity = identity
        self._clients[identity] = client

    def _drop(self, client: _Client, reason: str) -> None:
        """A connection ends, or has ended."""
        if client.gone:
            return
        client.gone = True
        logger.debug("connection of %r ended: %s", client.identity, reason)
        self._strangers.pop(client, None)
        if self._clients.get(client.identity) is client:
            del self._clients[client.identity]
        self._selector.unregister(client.stream)
        client.stream.close()

    # What goes out

    def post(self, identity: bytes, envelope: Buffer, payload: Buffer) -> None:
        """Hands a message to the system, or keeps what it does not take at once; it does not wait.

        Raises:
            OSError: the client is gone (EHOSTUNREACH), or does not read, and `send_hwm` messages wait for it (EAGAIN).
        """
        client = self._clients.get(identity)
        if client is None:
            raise OSError(errno.EHOSTUNREACH, "the client is not there")
        if client.stream.unsent >= self._send_hwm:
            raise OSError(errno.EAGAIN, f"the client does not read, and {self._send_hwm} messages wait for it")
        try:
            client.stream.send((b"", envelope, payload))
        except ConnectionEnded as error:
            self._drop(client, str(error))
            raise OSError(errno.EHOSTUNREACH, f"the client is gone: {error}") from error
        if client.stream.unsent:
            self._mind(client)

    def _mind(self, client: _Client) -> None:
        """Has the selector tell when a client can be sent the rest, as long as there is a rest."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.stream.unsent else 0)
        if events != client.events:
            client.events = events
            self._selector.modify(client.stream, events, client)

    # For whoever uses it without a server

    async def recv(self) -> IncomingObservation:
        """The next well-formed message.

        Raises:
            OSError: the transport is closed, or closes meanwhile.
        """
        if self._arrived is None:
            self._arrived = asyncio.Event()
            if not self._closed:
                self.watch(self._arrived.set)
        while True:
            if self._closed:
                raise OSError(errno.ENOTSOCK, "the transport is closed")
            self._arrived.clear()
            try:
                received = self.receive()
            except MalformedMessage:
                await asyncio.sleep(0)  # others get their turn, however many of these come
                continue
            if received is not None:
                return IncomingObservation(*received)
            await self._arrived.wait()

    async def send(self, response: OutgoingResponse) -> None:
        """`post`, awaitable, of a message in one piece."""
        self.post(response.identity, response.envelope, response.payload)

    async def close(self) -> None:
        """Stops listening; gives answers on their way a moment to leave. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        if self._loop is not None:
            self._loop.remove_reader(self._selector_fd())
        if self._dismissal is not None:
            self._dismissal.cancel()
        self._listener.close()
        unsent = [client for client in self._clients.values() if client.stream.unsent]
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_MS / 1e3):
                    await asyncio.gather(*map(_empty, unsent))
        finally:  # also if nobody wants to wait for that
            for client in [*self._clients.values(), *self._strangers]:
                self._drop(client, "the server ends")
            self._talkers.clear()
            self._selector.close()
            if self._arrived is not None:
                self._arrived.set()


async def _empty(client: _Client) -> None:
    """Until a client was sent all that it is owed, or is gone."""
    loop = asyncio.get_running_loop()
    writable = asyncio.Event()
    fd = client.stream.fileno()
    loop.add_writer(fd, writable.set)
    try:
        with contextlib.suppress(ConnectionEnded):
            while client.stream.unsent:
                writable.clear()
                await writable.wait()
                client.stream.flush()
    finally:
        loop.remove_writer(fd)
