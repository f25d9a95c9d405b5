"""The transport: a ROUTER socket, and what is needed to use it without a server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import Any

from inferential.proto.tensors import Buffer
from inferential.transport.acceptance import HANDSHAKE_S
from inferential.transport.connections import ClientConnection, MalformedMessage, send_buffered
from inferential.transport.held import SLOW_UNSENT_BYTES, HeldAnswer, HeldAnswers, T
from inferential.transport.keeping import KeepingRouter
from inferential.transport.messages import IncomingObservation, OutgoingResponse
from inferential.transport.router import GONE
from inferential.zmtp import ConnectionEnded

__all__ = ["GONE", "HANDSHAKE_S", "LINGER_MS", "MalformedMessage", "ZmqTransport"]

LINGER_MS = 500
"""On close, how long to wait for unsent messages, in milliseconds."""
SEND_WAIT_S = 1.0
"""How long `send` waits for connections in their handshake, if its client is not connected yet."""


class ZmqTransport(KeepingRouter):
    """A bound ROUTER socket with messages to await, and with answers that newer ones replace."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.backlogged: dict[int, HeldAnswers[Any]] = {}
        """By number, the connections to which something is unsent, and the answers that wait for it."""

    def post_newest(self, request: T, envelope: Buffer, payload: Buffer) -> T | None:
        """Sends an answer of a model as soon as its connection takes more, unless a newer one comes before.

        Returns:
            The request whose answer is not sent, as a newer one is.

        Raises:
            OSError: as `post`.
        """
        held: HeldAnswers[T] | None = self.backlogged.get(request.connection)
        if held is None:
            self.post(request.connection, envelope, payload)
            return None
        client = self._writable(request.connection, len(payload))
        old = held.put(HeldAnswer(request, envelope, payload))
        client.held_bytes = held.size
        self._budget.sending(client)
        return None if old is None else old.request

    def _note_unsent(self, client: ClientConnection) -> None:
        number = client.number
        if client.stream.unsent:
            if number not in self.backlogged:
                self.backlogged[number] = HeldAnswers()
                client.stream.limit_unsent(SLOW_UNSENT_BYTES)
        elif (held := self.backlogged.pop(number, None)) is not None:
            self._release(client, held)
        super()._note_unsent(client)

    def _release(self, client: ClientConnection, held: HeldAnswers[Any]) -> None:
        """Hands over what waited for a connection; one that has ended is found when it is read."""
        client.held_bytes = 0
        with contextlib.suppress(ConnectionEnded):
            for answer in held.take():
                client.stream.send((b"", answer.envelope, answer.payload))
        if client.stream.unsent:
            self.backlogged[client.number] = held

    def _on_closed(self, client: ClientConnection) -> None:
        self.backlogged.pop(client.number, None)
        super()._on_closed(client)

    def has_unread(self, identity: bytes) -> bool:
        """Returns whether a connected client has sent something that was not looked at yet."""
        client = self._connections.by_identity.get(identity)
        return client is not None and (client.queued or client.stream.has_unread())

    def is_behind(self, identity: bytes) -> bool:
        """Returns the same, or that it is not looked for now, as requests of the client wait."""
        client = self._connections.by_identity.get(identity)
        return client is not None and (bool(client.parked_at) or self.has_unread(identity))

    async def read_rest(self, most_s: float) -> None:
        """Waits until all has been read that has come by now, for so many seconds at most; none is parked any more."""
        self._parking.stop()
        loop = asyncio.get_running_loop()
        until = loop.time() + most_s
        while not self._closed and loop.time() < until:
            if not self._ready and not self._connections.poller.poll(1):
                return
            await asyncio.sleep(0)  # the loop calls what reads

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
                return IncomingObservation(*received[:4])
            await readable.wait()

    async def send(self, response: OutgoingResponse) -> None:
        """Sends a message; if its client is not connected, waits first for connections in their handshake.

        Raises:
            OSError: as `post`; for a client that is not connected after up to `SEND_WAIT_S` seconds.
        """
        identity = response.identity
        if identity not in self._connections.by_identity and not self._closed:
            readable = self._watch_alone()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SEND_WAIT_S):
                    self._poll_all()
                    while identity not in self._connections.by_identity and self._connections.handshaking:
                        readable.clear()
                        await readable.wait()
                        self._poll_all()
            if self._ready:
                readable.set()  # for a concurrent `recv`
        self.post(self.connection_of(identity), response.envelope, response.payload)

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
        self._corks.send_all()
        for number, held in list(self.backlogged.items()):
            self._release(self._connections.by_number[number], held)
        if self._loop is not None:
            self._loop.remove_reader(self._connections.poller.fileno())
        self._parking.stop()
        self._stalls.stop()
        self._heartbeats.stop()
        self._stop_keeping()
        self._tell_closed = None
        self._acceptance.close()
        unsent = [client for client in self._connections.by_number.values() if client.stream.unsent]
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_MS / 1e3):
                    await asyncio.gather(*map(send_buffered, unsent))
        finally:  # also if this is cancelled
            for client in [*self._connections.by_number.values(), *self._connections.handshaking]:
                self._connections.drop(client, "the server is shutting down")
            self._ready.clear()
            self._connections.poller.close()
            if self._readable is not None:
                self._readable.set()
