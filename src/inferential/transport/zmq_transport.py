"""The ROUTER socket of the server, watched by the event loop itself.

It decides nothing: what a message means and who gets which answer is the server's business.

ZeroMQ's descriptor signals edges: it becomes readable once when something changed, and any use of the socket may
consume the signal. So whoever was told that the socket is readable reads until `receive` gives None, and every
`post` looks whether something came meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import zmq

from inferential.transport.messages import IncomingObservation, OutgoingResponse

if TYPE_CHECKING:
    from inferential.config.schema import TransportConfig

COPY_LIMIT_BYTES = 256 * 1024  # below it a copy is cheaper than keeping the sender's memory alive
LINGER_MS = 500
"""On close, how long answers that are on their way may still take."""
_POLLIN, _NOBLOCK, _NOBLOCK_MORE = int(zmq.POLLIN), int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
_FRAMES = 4  # identity, empty, envelope, payload
_DISCARD_AT_ONCE = 64  # frames of an endless message that are thrown away in one go, others' messages between


class MalformedMessage(Exception):
    """A message that is not [identity, "", envelope, payload]."""

    def __init__(self, identity: bytes, reason: str) -> None:
        self.identity = identity
        self.reason = reason
        super().__init__(reason)


class ZmqTransport:
    """A bound ROUTER socket.

    Raises:
        OSError: where the address cannot be bound.
    """

    def __init__(self, config: TransportConfig, max_message_bytes: int | None = None) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.RCVHWM, config.recv_hwm)
        self._socket.setsockopt(zmq.SNDHWM, config.send_hwm)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        if max_message_bytes is not None:
            # A frame above it ends the sender's connection before memory is spent on it.
            self._socket.setsockopt(zmq.MAXMSGSIZE, max_message_bytes)
        try:
            port = config.bind.rpartition(":")[2]
            if config.bind.startswith("tcp:") and port.isdecimal() and int(port) > 65_535:
                raise zmq.ZMQError(errno.EINVAL, "no such port")  # ZeroMQ would take it modulo 65536
            self._socket.bind(config.bind)
        except zmq.ZMQError as error:
            self._socket.close(linger=0)
            self._context.term()
            raise OSError(error.errno, f"transport.bind: cannot listen on {config.bind!r}: {error.strerror}") from error
        self._fd = int(self._socket.getsockopt(zmq.FD))
        # What zmq.Socket adds around these (options as enums, trackers, groups) costs more than the calls themselves.
        self._recv: Callable[..., Any] = partial(zmq.backend.Socket.recv, self._socket)
        self._send = partial(zmq.backend.Socket.send, self._socket)
        self._events: Callable[[], Any] = partial(zmq.backend.Socket.get, self._socket, int(zmq.EVENTS))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_readable: Callable[[], None] | None = None
        self._arrived: asyncio.Event | None = None
        self._look_again = False
        self._discarding: bytes | None = None  # whose message is being thrown away

    @property
    def address(self) -> str:
        """Where the socket listens, the real port in place of port 0."""
        endpoint = self._socket.getsockopt(zmq.LAST_ENDPOINT)
        return endpoint.rstrip(b"\0").decode() if isinstance(endpoint, bytes) else str(endpoint)

    def watch(self, on_readable: Callable[[], None]) -> None:
        """Has the running event loop call `on_readable` whenever there may be something to receive."""
        self._loop = asyncio.get_running_loop()
        self._on_readable = on_readable
        self._loop.add_reader(self._fd, on_readable)
        self._loop.call_soon(on_readable)

    def receive(self) -> IncomingObservation | None:
        """The next message, None where there is none.

        Raises:
            MalformedMessage: the next message has the wrong frames; it is gone, go on with the next.
        """
        if self._discarding is not None:
            self._discard(self._discarding)
        if not self._events() & _POLLIN:  # asking is cheaper than an exception
            return None
        identity = self._recv(_NOBLOCK)
        frames: list[zmq.Frame] = []
        more = True
        while more and len(frames) < _FRAMES:
            frame = self._recv(_NOBLOCK, False)
            frames.append(frame)
            more = frame.more
        if more:
            self._discard(identity)
        if len(frames) != _FRAMES - 1 or len(frames[0]):
            raise MalformedMessage(identity, f"expected frames [empty, envelope, payload], got {len(frames)} of them")
        return IncomingObservation(identity, frames[1].bytes, frames[2].buffer, time.monotonic())

    def _discard(self, identity: bytes) -> None:
        self._discarding = identity
        for _ in range(_DISCARD_AT_ONCE):
            if not self._socket.recv(zmq.NOBLOCK, copy=False).more:
                self._discarding = None
                break
        raise MalformedMessage(identity, "expected frames [empty, envelope, payload], got more")

    def post(self, response: OutgoingResponse) -> None:
        """Hands a message to ZeroMQ; it does not wait.

        Raises:
            OSError: (zmq.ZMQError) the client is gone, or does not read and `send_hwm` messages wait for it.
        """
        try:
            send = self._send
            send(response.identity, _NOBLOCK_MORE)
            send(b"", _NOBLOCK_MORE)
            send(response.envelope, _NOBLOCK_MORE)
            send(response.payload, _NOBLOCK, len(response.payload) < COPY_LIMIT_BYTES)
        except zmq.ZMQError as error:
            raise OSError(error.errno, error.strerror) from error
        finally:
            self._check_edge()

    def _check_edge(self) -> None:
        """Calls `on_readable` soon if sending consumed the signal that something came."""
        if self._loop is None or self._look_again or self._socket.closed:
            return
        if not self._events() & _POLLIN:
            return
        self._look_again = True
        self._loop.call_soon(self._readable_after_all)

    def _readable_after_all(self) -> None:
        self._look_again = False
        if self._on_readable is not None and not self._socket.closed:
            self._on_readable()

    async def recv(self) -> IncomingObservation:
        """The next well-formed message, for whoever uses the transport without a server.

        Raises:
            OSError: the transport is closed, or closes meanwhile.
        """
        if self._arrived is None:
            self._arrived = asyncio.Event()
            self.watch(self._arrived.set)
        while True:
            if self._socket.closed:
                raise OSError(errno.ENOTSOCK, "the transport is closed")
            self._arrived.clear()
            try:
                received = self.receive()
            except MalformedMessage:
                await asyncio.sleep(0)  # others get their turn, however many of these come
                continue
            if received is not None:
                return received
            await self._arrived.wait()

    async def send(self, response: OutgoingResponse) -> None:
        """`post`, awaitable."""
        self.post(response)

    async def close(self) -> None:
        """Stops listening; gives answers on their way a moment to leave. Closing twice is fine."""
        if self._socket.closed:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._fd)
        self._socket.close()
        if self._arrived is not None:
            self._arrived.set()
        # term() waits for the linger time at most, and must not hold up the event loop meanwhile.
        await asyncio.get_running_loop().run_in_executor(None, self._context.term)
