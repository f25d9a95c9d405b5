"""A ZeroMQ ROUTER socket without libzmq, watched by the event loop itself.

A client is known by the identity that it sends in the handshake; a client that sends none gets a generated one, which
begins with a zero byte. A client that connects again under its identity replaces its former connection unless that
answers (`acceptance`). Messages are sent by a connection's number, never by its identity; sending by one that has ended
is an error (ZMQ_ROUTER_MANDATORY).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from inferential.transport.acceptance import Acceptance
from inferential.transport.budget import ByteBudget
from inferential.transport.connections import (
    AsksNothing,
    ClientConnection,
    MalformedMessage,
    is_well_formed,
    malformed,
)
from inferential.transport.handshakes import HandshakeGuard
from inferential.transport.heartbeats import Heartbeats
from inferential.transport.listening import listen_on_all
from inferential.transport.messages import Received, Skimmed
from inferential.transport.parking import FLOOD_MESSAGES, Parking
from inferential.transport.poller import READ, WRITE
from inferential.transport.sending import Sender
from inferential.transport.stalls import StallWatch
from inferential.zmtp import ConnectionEnded, ProtocolError
from inferential.zmtp.protocol import Buffer
from inferential.zmtp.reader import Allocate

if TYPE_CHECKING:
    from inferential.config.schema import TransportConfig

GONE = "the client is gone"
"""The objection to requests of a connection that has ended."""

_POLL_AT_ONCE = 32  # connections that are read between two messages, at most
POLL_AFTER = 16
"""Messages that are returned between two polls of all connections."""
MANY_COMMANDS = 16
"""Heartbeats and empty messages that come together, by which a connection takes more time than they are worth."""
_MAX_DIRECT_READS = 16  # reads from an only client between two polls of all connections
_MAX_CATCH_UP_READS = 7
"""In one turn, of a connection whose newest message is looked for: it takes a millisecond or two, and 0.4 s later the
next."""


class RouterSocket(Sender):
    """A bound ROUTER socket.

    Args:
        config: the addresses, and how many messages may wait for a client.
        max_message_bytes: a larger frame closes its sender's connection before memory is allocated; None: no limit.
        guard: decides who may connect; None: all may.
        allocate: returns memory for a large frame, or None: new memory.

    Raises:
        OSError: an address cannot be bound.
    """

    def __init__(
        self,
        config: TransportConfig,
        max_message_bytes: int | None = None,
        guard: HandshakeGuard | None = None,
        allocate: Allocate | None = None,
    ) -> None:
        addresses = config.addresses
        opened = listen_on_all([one.bind for one in addresses])
        listeners = [(listener, one.security) for listener, one in zip(opened, addresses, strict=True)]
        self.addresses: list[str] = [listener.address for listener in opened]
        self.address: str = self.addresses[0]
        self._max_frame_bytes = max_message_bytes
        # A message of the largest size, and one that is sent meanwhile; the frames of a message count together.
        super().__init__(config.send_hwm, ByteBudget(None if max_message_bytes is None else 2 * max_message_bytes))
        self._connections.on_closed.append(self._on_closed)
        self._parking = Parking(self._connections)
        self._budget.end = self._end_greedy
        self._stalls = StallWatch(self._budget, self._end)
        self._heartbeats = Heartbeats(self._connections)
        self._connections.on_closed.append(self._budget.closed)
        guard = HandshakeGuard() if guard is None else guard
        self._acceptance = Acceptance(
            self._connections, listeners, max_message_bytes, self._on_admitted, guard, allocate
        )
        self._ready: deque[ClientConnection] = deque()  # clients that may have a message, in the order of their turns
        self.overtaken: list[Skimmed] = []
        """Older messages of the connection whose newest was just returned; the caller takes them out."""
        self._malformed: MalformedMessage | None = None  # came after a message that was returned first
        self._unsettled: ClientConnection | None = None  # parked, and read all the same
        self._woken = False  # `_on_woken` is scheduled
        self._returned = 0  # messages since the last poll
        self._more = False  # the last poll found as many connections as it may, or left some unread
        self._direct_reads = 0  # since the last poll of all connections
        self._on_readable: Callable[[], None] | None = None
        self._tell_closed: Callable[[int], None] | None = None
        self._readable: asyncio.Event | None = None
        self._closed = False

    def watch(
        self,
        on_readable: Callable[[], None],
        on_closed: Callable[[int], None] | None = None,
        waits: Callable[[int], int] | None = None,
    ) -> None:
        """Makes the running event loop call back.

        Args:
            on_readable: called whenever there may be a message to receive.
            on_closed: called with the number of a connection that has ended.
            waits: returns how many requests of a connection wait; if any do, it is read less than others.
        """
        self._loop = asyncio.get_running_loop()
        self._acceptance.start(self._loop)
        self._on_readable = on_readable
        self._tell_closed = on_closed
        self._parking.start(self._loop, waits)
        self._loop.add_reader(self._connections.poller.fileno(), on_readable)
        self._loop.call_soon(on_readable)

    # Receiving

    def receive(self) -> Received | None:
        """Returns the next message, None if there is none; clients take turns.

        Raises:
            MalformedMessage: the next message has the wrong frames, or many ask for nothing; they are dropped, and the
                next call returns what follows.
        """
        if self._unsettled is not None:  # what became of its message is known by now
            self._parking.settle(self._unsettled)
            self._unsettled = None
        if self._malformed is not None:
            error, self._malformed = self._malformed, None
            raise error
        if not self._ready and self._returned and not self._more:
            self._returned = 0
            return None  # a message that has arrived since makes the poller readable again
        if not self._ready or self._returned >= POLL_AFTER:
            self._poll()
        while self._ready:
            client = self._ready.popleft()
            stream = client.stream
            try:
                frames = stream.next()
            except ConnectionEnded as error:
                self._end(client, error)
                continue
            if stream.unsent:
                self._note_unsent(client)  # a reply to its heartbeat
            if frames is None:
                client.queued = False
                if client.parked_at:
                    self._parking.settle(client)
                if self._budget.used and self._loop is not None:
                    self._stalls.start(self._loop)
                if stream.ttl_s:  # of a PING that was just read
                    self._heartbeats.heard(client, self._loop)
                if stream.commands > MANY_COMMANDS:
                    raise AsksNothing(client)
                continue
            received: Received | None = None
            if is_well_formed(frames):
                if client.newest_only and not client.gone and (stream.buffered() or not stream.drained):
                    frames = self._newest(client, frames)
                received = client.identity, frames[1], frames[2], time.monotonic(), client.number
            if stream.buffered():
                if client.gone:
                    self._ready.appendleft(client)  # these are older than the messages of its successor
                else:
                    self._ready.append(client)
            else:
                client.queued = False
                if client.parked_at:
                    self._unsettled = client
            self._returned += 1
            client.asked = True
            if self._budget.used:
                self._budget.received(client)
            if received is not None:
                return received
            if (wrong := malformed(client, frames)) is not None:
                raise wrong
            if stream.commands > MANY_COMMANDS:
                raise AsksNothing(client)
        return None

    def _newest(self, client: ClientConnection, frames: list[Buffer]) -> list[Buffer]:
        """Returns the newest message that a connection has sent, and leaves the older ones in `overtaken`.

        In an overload the system's buffers hold seconds of observations, which would be served in their order, each
        long out of date.
        """
        stream, overtaken, reads = client.stream, self.overtaken, _MAX_CATCH_UP_READS if client.floods else 0
        client.floods = False
        while isinstance(frames[1], bytes):  # else it is no envelope, and too large to be kept beside newer ones
            if not stream.buffered():
                if stream.drained:
                    return frames
            elif burst := stream.burst():
                overtaken.append((bytes(frames[1]), frames[2], 0, len(frames[2])))
                envelope, data, start, end = burst.pop()
                overtaken += burst
                client.floods = len(overtaken) >= FLOOD_MESSAGES
                frames = [b"", envelope, bytearray(data[start:end])]
                if stream.drained and not stream.buffered():
                    return frames
            try:
                following = stream.next()
                if following is None:
                    if stream.drained or reads == _MAX_CATCH_UP_READS or not stream.read():
                        return frames
                    reads += 1
                    continue
            except ConnectionEnded:
                return frames  # the next read finds it again
            if not is_well_formed(following):
                self._malformed = malformed(client, following)
                if self._malformed is None:
                    continue
                return frames
            overtaken.append((bytes(frames[1]), frames[2], 0, len(frames[2])))
            client.floods = len(overtaken) >= FLOOD_MESSAGES
            frames = following
        return frames

    def prefer_newest(self, number: int) -> None:
        """Returns, from now on, of several messages that a connection has sent the newest first."""
        client = self._connections.by_number.get(number)
        if client is not None:
            client.newest_only = True

    def _poll(self) -> None:
        """Reads from every readable connection whose earlier messages have been returned; accepts new ones."""
        if not self._closed and not self._read_only_client():
            self._poll_all()
        self._returned = 0

    def _poll_all(self) -> None:
        self._direct_reads = 0
        if self.parked:
            self._parking.resume_some()
            # As late as possible: what is sent after that is not seen before the next dispatch.
            for due in self._parking.take_due(_POLL_AT_ONCE - len(self._ready)):
                if due.parked_at and not due.gone:  # else the poller says when it is readable
                    self._handle_events(due, READ)
                due.due = False
                if not due.queued:
                    self._parking.settle(due)
        found = self._connections.poller.poll(_POLL_AT_ONCE)
        self._more = len(found) == _POLL_AT_ONCE
        if self._parking.due:
            self._more = True
            self._wake()
        for client, events in found:
            if client is None:
                self._acceptance.accept()
            elif not client.gone:  # else an earlier event of this loop closed it
                self._handle_events(client, events)

    def resume(self, number: int) -> None:
        """Reads a connection again that may have been parked: its requests do not wait any longer."""
        client = self._connections.by_number.get(number)
        if client is not None:
            self._parking.resume(client)
            if client.due:
                self._wake()

    def renew(self) -> bool:
        """Has `receive` read connections that are parked, for a call that may begin; returns whether it will."""
        return bool(self._connections.parked) and self._parking.renew()

    @property
    def parked(self) -> int:
        """How many connections are not read because their requests wait."""
        return self._connections.parked_count

    def _handle_events(self, client: ClientConnection, events: int) -> None:
        """Reads from and writes to a connection, as far as it is ready."""
        try:
            if events & WRITE:
                client.stream.flush()
                self._note_unsent(client)
            # A parked connection is reported only if it has ended.
            if (
                events & READ
                and not client.queued
                and (client.parked_at or not self._parking.park(client, pressed=self._more))
            ):
                self._read(client)
        except ConnectionEnded as error:
            self._end(client, error)
        except MemoryError:
            self._connections.drop(client, "no memory is left for what it sends")

    def _end(self, client: ClientConnection, error: ConnectionEnded) -> None:
        """Closes a connection that has broken, or broke a rule, and says why."""
        self._acceptance.failed(client, error)
        self._connections.drop(client, str(error))

    def _end_greedy(self, client: ClientConnection) -> None:
        self._end(client, ProtocolError("others need the room that its half-received message takes"))

    def _read_only_client(self) -> bool:
        """Reads directly from the client if it is the only one; returns whether it had a message.

        That spares a call of the selector. New connections wait for a few such reads at most.
        """
        if (
            len(self._connections.by_identity) != 1
            or self._connections.handshaking
            or self._direct_reads >= _MAX_DIRECT_READS
        ):
            return False
        (client,) = self._connections.by_identity.values()
        if client.queued or client.stream.unsent or client.parked_at:
            return False
        self._direct_reads += 1
        self._handle_events(client, READ)
        return client.queued

    def _read(self, client: ClientConnection) -> None:
        if client.identity:
            received = client.stream.read()
        elif client.stream.handshake():
            self._acceptance.register(client)
            client.stream.reserve_by(self._budget.reserve(client))
            received = True
        else:
            return
        if self._budget.used and self._loop is not None:
            self._stalls.start(self._loop)
        if client.stream.ttl_s:
            self._heartbeats.heard(client, self._loop)
        if received and (client.due or not client.parked_at):
            self._queue(client)

    def _on_admitted(self, client: ClientConnection) -> None:
        self._queue(client)  # what it sent may have been read before
        self._wake()

    def _wake(self) -> None:
        """Has the caller receive in the loop's next turn, whatever the poller says."""
        if not self._woken and self._loop is not None:
            self._woken = True
            self._loop.call_soon(self._on_woken)

    def _on_woken(self) -> None:
        self._woken = False
        if self._on_readable is not None:
            self._on_readable()

    def _queue(self, client: ClientConnection) -> None:
        """Gives a connection its turn, as soon as messages of it may have been received."""
        if not client.queued:
            client.queued = True
            self._ready.append(client)

    def sizes(self) -> dict[str, int]:
        """Returns the number of connections and of buffered messages."""
        return {
            "connections_ready": len(self._ready),
            "bytes_held": self._budget.used,
            "messages_unsent": self._budget.unsent(),
            **self._connections.sizes(),
        }

    def _on_closed(self, client: ClientConnection) -> None:
        if self._tell_closed is not None:
            self._tell_closed(client.number)

    def objection(self, number: int) -> str | None:
        """Returns why requests of the connection with this number are refused, `GONE` if it has ended; None: they are
        not."""
        client = self._connections.by_number.get(number)
        if client is None:
            return GONE
        return self._acceptance.objection(client) if client.rival else None

    def ask(self, identity: bytes) -> None:
        """Ends the connection with this identity unless it shows within 0.4 s that it lives."""
        self._acceptance.ask(identity)

    def drop_revoked(self) -> None:
        """Ends the connections of clients whose keys are not accepted any more."""
        self._acceptance.drop_revoked()
