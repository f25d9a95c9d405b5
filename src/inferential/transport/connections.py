"""Connections of clients to the transport."""

from __future__ import annotations

import asyncio
import contextlib

from inferential.errors import InferentialError
from inferential.transport.poller import READ
from inferential.zmtp import ConnectionEnded, Stream


class MalformedMessage(InferentialError):
    """A message that is not [identity, "", envelope, payload]."""

    def __init__(self, identity: bytes, reason: str) -> None:
        self.identity = identity
        self.reason = reason
        super().__init__(reason)


class ClientConnection:
    """One client's connection, in its handshake or after it.

    Attributes:
        number: its own, never used again, unlike its identity; 0 until the handshake is done.
        events: what the poller looks for.
        newest_only: of messages that came together the newest is returned first, see `ZmqTransport.prefer_newest`.
        queued: messages that were read wait in the transport for their turn.
        reads: how often it was read since its requests began to wait.
        parked_at: since when it is not read because its requests wait, in seconds of `time.monotonic()`; 0: it is read.
        corked: encoded refusals that leave together.
        gone: it is closed; messages that were received before may remain to be returned.
    """

    __slots__ = (
        *("corked", "events", "gone", "handshake_deadline", "identity", "newest_only", "number", "parked_at"),
        *("queued", "reads", "stream"),
    )

    def __init__(self, stream: Stream, handshake_deadline: float) -> None:
        self.stream = stream
        self.handshake_deadline = handshake_deadline
        self.identity = b""  # until the handshake is done
        self.number = 0
        self.events = READ
        self.newest_only = False
        self.queued = False
        self.reads = 0
        self.parked_at = 0.0
        self.corked: list[bytes] = []
        self.gone = False


async def send_buffered(client: ClientConnection) -> None:
    """Waits until a client's buffered messages are sent, or it disconnects."""
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
