"""Connections of clients to the transport."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TypeGuard

from inferential.errors import InferentialError
from inferential.transport.poller import READ, WRITE, Poller
from inferential.zmtp import ConnectionEnded, Stream
from inferential.zmtp.protocol import Buffer, Discarded

logger: logging.Logger = logging.getLogger("inferential.transport")

_FRAMES = 3  # empty, envelope, payload


class MalformedMessage(InferentialError):
    """A message that is not [identity, "", envelope, payload].

    Attributes:
        identity, connection: of its sender, and of what it came by.
        reason: what is wrong; "" where nothing is (`AsksNothing`).
        count: of how many such there were.
    """

    def __init__(self, identity: bytes, reason: str, connection: int = 0) -> None:
        self.identity = identity
        self.reason = reason
        self.connection = connection
        self.count: int = 1
        super().__init__(reason)


class AsksNothing(MalformedMessage):
    """Many messages that ask for nothing: heartbeats, and empty ones as ZMQ_PROBE_ROUTER sends them on connecting."""

    def __init__(self, client: ClientConnection) -> None:
        super().__init__(client.identity, "", client.number)
        self.count: int = client.stream.commands
        client.stream.commands = 0


class ClientConnection:
    """One client's connection, in its handshake or after it.

    Attributes:
        accepted_at, handshake_deadline: in seconds of `time.monotonic()`.
        number: its own, never used again, unlike its identity; 0 until the handshake is done.
        events: what the poller looks for.
        newest_only: of messages that came together the newest is returned first, see `ZmqTransport.prefer_newest`.
        queued: messages that were read wait in the transport for their turn.
        floods: so many messages came together when it was last read that it sends far more than is served.
        reads: how often it was read since its requests began to wait.
        due: it is parked, and is to be read next.
        parked_at: since when it is not read because its requests wait, in seconds of `time.monotonic()`; 0: it is read.
        waits_since: when it was parked for the first time that its request has waited, in the same seconds.
        corked: envelopes of refusals that leave together.
        held_bytes: of answers that wait until it takes more.
        asked: a message of it was received.
        rival: it has the identity of another connection that stands, which keeps it.
        host: its address as HOST:PORT; "" of a local client.
        life: of its robot, see `zmtp.protocol.LIFE`; b"" where it says none.
        gone: it is closed; messages that were received before may remain to be returned.
    """

    __slots__ = (
        *(
            "accepted_at",
            "asked",
            "corked",
            "due",
            "events",
            "floods",
            "gone",
            "handshake_deadline",
            "held_bytes",
            "host",
            "identity",
            "life",
            "newest_only",
            "number",
        ),
        *("parked_at", "queued", "reads", "rival", "stream", "waits_since"),
    )

    def __init__(self, stream: Stream, accepted_at: float, handshake_deadline: float, host: str = "") -> None:
        self.stream = stream
        self.accepted_at = accepted_at
        self.handshake_deadline = handshake_deadline
        self.host = host
        self.identity = b""  # until the handshake is done
        self.life = b""
        self.number = 0
        self.events = READ
        self.asked = False
        self.newest_only = False
        self.floods = False
        self.queued = False
        self.reads = 0
        self.rival = False
        self.due = False
        self.parked_at: float = 0.0
        self.waits_since: float = 0.0
        self.corked: list[bytes] = []
        self.held_bytes = 0
        self.gone = False


class Connections:
    """All connections: by identity, by number, and those in their handshake.

    Attributes:
        poller: says which of them are ready.
        by_identity: the clients that are connected.
        by_number: the same and their rivals, longest connected first.
        handshaking: connections in their handshake, oldest first.
        parked, parked_floods: connections that are not read, longest parked first; those that flood apart.
        on_closed: called with the number of one that has ended.
    """

    def __init__(self) -> None:
        self.poller: Poller[ClientConnection | None] = Poller()
        self.by_identity: dict[bytes, ClientConnection] = {}
        self.by_number: dict[int, ClientConnection] = {}
        self.handshaking: dict[ClientConnection, None] = {}
        self.parked: dict[ClientConnection, None] = {}
        self.parked_floods: dict[ClientConnection, None] = {}
        self.on_closed: list[Callable[[ClientConnection], None]] = []

    @property
    def parked_count(self) -> int:
        """How many connections are not read."""
        return len(self.parked) + len(self.parked_floods)

    def update_events(self, client: ClientConnection) -> None:
        """Watches for writability while a client has unsent messages, and for messages while it is not parked."""
        events = (0 if client.parked_at else READ) | (WRITE if client.stream.unsent else 0)
        if events != client.events:
            client.events = events
            self.poller.modify(client.stream.fileno(), events)

    def resume(self, client: ClientConnection) -> None:
        """Reads a connection again that may have been parked."""
        client.reads = 0
        if client.parked_at:
            self.parked.pop(client, None)
            self.parked_floods.pop(client, None)
            client.parked_at = 0.0
            self.update_events(client)

    def drop(self, client: ClientConnection, reason: str) -> None:
        """Closes a connection, or cleans up after one that was closed."""
        if client.gone:
            return
        client.gone = True
        logger.debug("connection of %r closed: %s", client.identity, reason)
        self.handshaking.pop(client, None)
        if self.by_identity.get(client.identity) is client:
            del self.by_identity[client.identity]
        self.parked.pop(client, None)
        self.parked_floods.pop(client, None)
        self.poller.unregister(client.stream.fileno())
        client.stream.close()
        if self.by_number.pop(client.number, None) is not None:
            for call in self.on_closed:
                call(client)

    def sizes(self) -> dict[str, int]:
        """Returns the number of connections."""
        return {
            "connections": len(self.by_identity),
            "connections_handshaking": len(self.handshaking),
            "connections_parked": self.parked_count,
            "connections_rival": len(self.by_number) - len(self.by_identity),
            "connections_watched": max(len(self.poller) - 1, 0),  # the poller has the listener too
        }


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


def is_well_formed(frames: list[Buffer] | Discarded) -> TypeGuard[list[Buffer]]:
    """Returns whether a message has the frames of an observation or a result."""
    return isinstance(frames, list) and len(frames) == _FRAMES and not len(frames[0])


def malformed(client: ClientConnection, frames: list[Buffer] | Discarded) -> MalformedMessage | None:
    """Returns the error for a message that has other frames.

    None for an empty one, which ZMQ_PROBE_ROUTER sends on connecting and which asks for nothing.
    """
    if isinstance(frames, list) and len(frames) == 1 and not len(frames[0]):
        client.stream.commands += 1
        return None
    reason = f"expected frames [empty, envelope, payload], got {_found(frames)}"
    return MalformedMessage(client.identity, reason, client.number)


def _found(frames: list[Buffer] | Discarded) -> str:
    """Returns which frames came, and what may be the reason."""
    if isinstance(frames, Discarded):
        return "more: each proxy on the way adds one (its client's identity); robots connect to the server itself"
    delimited = not len(frames[0])
    if len(frames) == _FRAMES - 1:
        return "2 of them: " + (
            "the payload is missing, which may be empty" if delimited else "the empty delimiter is missing"
        )
    if len(frames) == _FRAMES and len(frames[1]) == 0:
        return "3 of them, the second empty and not the first: a proxy on the way adds its client's identity before it"
    if len(frames) == _FRAMES:
        return "3 of them, the first not empty"
    return f"{len(frames)} of them"
