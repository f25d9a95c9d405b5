"""A robot's connection to one server: made without blocking, and made again whenever it is lost.

It never sleeps: its owner calls `poll` with the time whenever the selector that it registers with has an event, and at
`next_poll_at`. It does not look into messages.

    away, until `next_poll_at`  ->  connecting  ->  shaking hands  ->  connected
          ^                        |                |      ^          |
          +------------------------+----------------+------|----------+   the wait doubles, until it was connected
                                                           +----------+   a fresh connection overtakes a stuck one
"""

from __future__ import annotations

import errno
import logging
import math
import random
import selectors
import socket
import time
from collections.abc import Callable, Sequence

from inferential.client.attempts import every_s
from inferential.client.backoff import NO_WAY, Backoff, LinkTimeouts
from inferential.client.dialer import Dialer
from inferential.client.keys import HandshakeMaker
from inferential.client.outage import OutageLog
from inferential.zmtp import ConnectionEnded, Stream
from inferential.zmtp.delivery import Delivery
from inferential.zmtp.handshake import NullHandshake
from inferential.zmtp.protocol import Buffer, Discarded, Frame, Ready

logger: logging.Logger = logging.getLogger("inferential.client")

HANDSHAKE_S = 10.0
"""Longest time that the handshake may take before the next attempt; four round trips where these are longer."""
_HANDSHAKE_ROUND_TRIPS = 4
_LISTEN_EVERY_S = 0.1
_FRAMES = 3  # empty, envelope, payload
_SILENCE, _NO_HANDSHAKE = "no answer to heartbeats", "no answer to the handshake"


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
        self._make_handshake = make_handshake or (
            lambda life, presumed: NullHandshake(b"DEALER", identity, life=life, presumed=presumed)
        )
        self.life: bytes = b""  # said to the server, which keeps for the same life what it owes to this robot
        self._dialer = Dialer(address, selector)
        self._heard_at = -math.inf  # when the outage began, about
        self._stream: Stream | None = None
        self.delivery: Delivery = Delivery()
        """What the connection carries, and what is under way."""
        self._limited = self._writing = False
        self.more: bool = False
        """Whether there may be another message after the last one from `next`; if not, asking costs a system call."""
        self.unread: bool = False
        """Whether messages were left to be read later, as there are so many; `client.transport.receive` sets it."""
        self.ended: bool = False
        """Whether the connection was found closed; `poll` handles it."""
        self.last_error: str | None = "connecting"
        """Why there is no connection, in words; None while connected."""
        self.silent: bool = False  # nothing was heard of the server, which may live and be busy
        self.keeps_answers: bool = False  # so that a robot that comes back gets what it is owed
        self._log = OutageLog(address)
        self._give_up_at = self._ping_at = self._race_at = 0.0
        self._was_sending = False  # when the last connection was lost
        self._is_overdue = False  # a heartbeat has no answer, though it had time enough
        self._former: Ready | None = None  # what the server said before the network was away
        self._backoff = Backoff(timeouts, jitter)

    def poll(self, now: float) -> bool:
        """Connects, continues the handshake, sends data and heartbeats; returns True where a connection was lost.

        Messages that were received before are still to be read: call `next` until it returns None, then `poll`.
        """
        stood = self._stream if self.connected else None
        try:
            if self._stream is not None:
                self._advance(self._stream, now)
            elif self._dialer.is_busy or now >= self.next_poll_at:
                self._dial(now)
        except (ConnectionEnded, OSError) as error:
            self._failed(now, error)
        return stood is not None and self._stream is not stood

    def try_send(self, frames: Sequence[Frame], flags: int = 0) -> bool:
        """Sends a message; returns False while the server is away or an earlier message is not sent completely.

        With the flag `zmtp.stream.WITH_NEXT` a small one shares a packet with the next.
        """
        if self._stream is None or not self.writable:
            return False
        delivery = self.delivery
        payload = frames[2]
        size = len(frames[1]) + (sum(map(len, payload)) if type(payload) is list else len(payload))
        delivery.unmarked += size
        try:
            if delivery.unmarked < delivery.mark_every or not self._stream.answers_pings:
                self._stream.send(frames, flags)
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
        if not self._dialer.is_racing:
            self.next_poll_at = self._ping_at  # it has its answer
        if delivery.is_thin != self._limited and self._stream is not None:
            # What the system held would be out of date when it leaves; on a good link a low limit costs wakeups.
            self._limited = delivery.is_thin
            self._stream.limit_unsent(delivery.unsent_bytes())

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

    def nudge(self, now: float) -> None:
        """Sends a heartbeat out of turn, where everything was handed to the system."""
        if self._stream is not None and self.writable and self._stream.answers_pings:
            try:
                self._heartbeat(self._stream, now)
            except ConnectionEnded:
                self._note_end()

    def received_s_ago(self) -> float:
        """Returns how long ago the system received the newest data, in seconds.

        Infinite while there is no connection; nan where the system does not say.
        """
        return math.inf if self._stream is None else self._stream.received_s_ago()

    def heard_s_ago(self) -> float:
        """Returns how long ago the server was heard of, as `received_s_ago`, in seconds.

        It is no longer than between two heartbeats while the answer to one may still come: a network may be slow.
        """
        ago_s = self.received_s_ago()
        return ago_s if self._is_overdue or self._stream is None else min(ago_s, self._timeouts.heartbeat_s)

    @property
    def takes_cancellations(self) -> bool:
        """Whether the server is connected and understands that requests are taken back."""
        peer = None if self._stream is None else self._stream.peer
        return self.writable and peer is not None and bool(peer.extensions)

    @property
    def drained(self) -> bool:
        """Whether all that has arrived was read."""
        return self._stream is None or self._stream.drained

    @property
    def lost_reason(self) -> str:
        """Why requests end that were sent by the connection that was lost."""
        limit = "observations.max_payload_bytes"
        why = f", while an observation was being sent: is it above the server's {limit}?" if self._was_sending else ""
        return f"the connection to {self.address} was lost before the answer came{why}"

    def close(self) -> None:
        """Closes the connection. Closing twice does nothing."""
        self.connected = self.writable = self._writing = self.ended = False
        self.delivery = Delivery()
        self._dialer.close()
        if self._stream is not None:
            self._selector.unregister(self._stream)
            self._stream.close()
        self._stream = None

    # Disconnected

    def _dial(self, now: float) -> None:
        """Goes on with the connections that are being made, and uses the first that stands."""
        connected = self._dialer.advance(now, now - self._heard_at)
        if connected is None:
            self.next_poll_at = self._dialer.next_poll_at
        else:
            self._use(connected, now)

    def _failed(self, now: float, error: Exception) -> None:
        """Closes the connection and sets the time of the next attempt."""
        stood = self.connected
        code = error.errno if isinstance(error, OSError) else None
        self._was_sending = self._writing
        self.close()
        self.silent = code in NO_WAY or str(error) == _NO_HANDSHAKE
        self.last_error = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        self._log.failed(self.last_error)
        if stood:
            self._begin_outage(now)
        # The network may be back about now, and robots notice their silence one after another.
        if self._dialer.has_more or self.last_error == _SILENCE:
            self.next_poll_at = now
            return
        if code not in NO_WAY:
            self._former = None
        self.next_poll_at = now + self._backoff.next_s(code, now - self._heard_at)

    def _begin_outage(self, now: float) -> None:
        self._backoff.reset()
        self._dialer.forget_addresses()
        self._heard_at = now

    def _use(self, connected: socket.socket, now: float) -> None:
        said, self._former = self._former, None
        # libzmq (4.3.5) never hears a connection whose first message comes in one read with the handshake.
        presumed = said if said is not None and said.extensions else None
        handshake = self._make_handshake(self.life, presumed)
        is_presumed = presumed is not None
        try:
            stream = Stream(connected, b"DEALER", self._identity, None, _FRAMES, handshake, presumed=is_presumed)
        except ConnectionEnded:
            self._dialer.discard(connected)
            raise
        self._selector.modify(connected, selectors.EVENT_READ)
        self._stream = stream
        self.delivery, self._limited = Delivery(), False
        stream.on_pong = self._on_pong
        handshake_s = max(HANDSHAKE_S, _HANDSHAKE_ROUND_TRIPS * stream.round_trip_s())
        self.next_poll_at = self._give_up_at = now + handshake_s
        self._is_overdue = False
        self._advance(stream, now)

    # Connected

    def _advance(self, stream: Stream, now: float) -> None:
        if not self.connected:
            if not stream.handshake():
                if now >= self._give_up_at:
                    raise ConnectionEnded(_NO_HANDSHAKE)
                return
            self.connected = True
            self.writable = not self._writing
            self.last_error = None
            self.keeps_answers = stream.peer is not None and stream.peer.keeps_answers
            self._log.over()
            self._backoff.reset()
            self.next_poll_at = self._ping_at = now + self._timeouts.heartbeat_s
            return
        if self.ended:
            raise ConnectionEnded("connection closed")
        if self._dialer.is_racing:
            self._continue_race(stream, now)
            return
        if stream.alive:
            self.delivery.heard()
            self._is_overdue = False
        if self._writing:
            stream.flush()
            self._watch_writability(stream)
        if now < self.next_poll_at:
            return
        if not stream.alive:
            if now >= self._give_up_at:
                self._give_up(stream, now)
                return
            self.delivery.stall()
            self._is_overdue = True
            self._race(stream, now)
        elif now < self._ping_at:
            self.next_poll_at = self._ping_at
        else:
            self._heartbeat(stream, now)

    def _heartbeat(self, stream: Stream, now: float) -> None:
        """Sends a heartbeat; of several without an answer the first counts."""
        if stream.alive:
            timeouts, round_trip_s = self._timeouts, stream.round_trip_s()
            self._give_up_at, self._ping_at = now + timeouts.silent_s(round_trip_s), now + timeouts.heartbeat_s
            self._race_at = 0.0
            self._backoff.reset()
            self.next_poll_at = now + timeouts.answer_within_s(round_trip_s)
        stream.ping(b"" if stream.unsent else self.delivery.heartbeat(now))  # with data unsent it sends nothing
        self._watch_writability(stream)

    def _race(self, stream: Stream, now: float) -> None:
        """Begins a fresh connection beside one whose data the system sends again, in vain.

        It would go on with that only after as long as the network was away, once more. Nothing is sent meanwhile. Where
        the system's data are taken and no answer comes, a proxy may take them, or a network hold them up: one fresh
        connection is made beside it then, by which the server may be heard before it has read what was sent.
        """
        is_stuck = stream.is_stuck(self.delivery.timeouts)
        is_silent = now >= self._ping_at + self._timeouts.answer_s and not self._writing
        listens = is_silent and not is_stuck
        self.next_poll_at = min(self._give_up_at, now + (_LISTEN_EVERY_S if listens else every_s(0.0)))
        if now < self._race_at or (not is_stuck and (self._dialer.is_racing or not listens)):
            return
        address = stream.peer_address()
        if address is None:
            return
        try:
            self._dialer.race(address)
        except OSError as error:
            self._note_race_lost(error.errno, now)
        self.writable = self.writable and not self._dialer.is_racing

    def _continue_race(self, stream: Stream, now: float) -> None:
        """Goes on with the connection that comes through first."""
        # Where data do not arrive, what stands shows that the network is back.
        fresh, code = self._dialer.first(heard=not stream.is_stuck(self.delivery.timeouts))
        if not self._dialer.is_racing and fresh is None:
            self._note_race_lost(code, now)
        if stream.alive:
            self._dialer.close()
            if fresh is not None:
                self._dialer.discard(fresh)
            self.writable = not self._writing
            self.next_poll_at = now
        elif fresh is not None:
            logger.info("nothing comes by the connection to %s; a fresh one takes its place", self.address)
            self._leave(stream, now)
            self._use(fresh, now)
        elif now >= self._give_up_at:
            self._give_up(stream, now)
        else:
            self.writable = not (self._writing or self._dialer.is_racing)  # they may have ended, without another race
            if now >= self.next_poll_at:
                self._race(stream, now)

    def _note_race_lost(self, code: int | None, now: float) -> None:
        """Has the next fresh connection wait, where not the network but the other end has refused or ended this one."""
        if code not in NO_WAY:
            self._race_at = now + self._backoff.next_s(code, 0.0)

    def _give_up(self, stream: Stream, now: float) -> None:
        """Ends a connection by which nothing is heard; fresh ones that are being made go on."""
        is_stuck = stream.is_stuck(self.delivery.timeouts)
        self._leave(stream, now)
        if not self._dialer.is_racing:
            raise OSError(errno.ETIMEDOUT, _SILENCE)
        self.last_error = _SILENCE
        self._log.failed(_SILENCE)
        self._dialer.go_on(now, heard=not is_stuck)
        self._dial(now)

    def _leave(self, stream: Stream, now: float) -> None:
        """Ends a connection by which nothing comes through."""
        self._selector.unregister(stream)
        stream.abort()
        self._former, self._stream, self.delivery = stream.peer, None, Delivery()
        self.silent = True
        self.connected = self.writable = self._writing = False
        self._begin_outage(now)

    def _note_end(self) -> None:
        self.ended, self.writable = True, False

    def _watch_writability(self, stream: Stream) -> None:
        if self._writing != bool(stream.unsent):
            self._writing = bool(stream.unsent)
            self.writable = self.connected and not (self._writing or self.ended or self._dialer.is_racing)
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._writing else 0)
            self._selector.modify(stream, events)
