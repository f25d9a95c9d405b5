"""Leaves connections unread whose requests wait already.

What they send stays with the system, and in the end with the client: a client that sends more than is served costs
others nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from operator import attrgetter

from inferential.transport.connections import ClientConnection, Connections

PARKED_S = 0.1
"""How long a connection is not read at most: its heartbeats are answered, and its newest observation is seen."""
RESUME_EACH_S = 0.0005
"""For each of many parked connections, how much longer they are parked: what comes together is refused at a fraction of
the cost of what comes one by one, and 2,000 readings a second leave most of the time to requests that are served."""
FLOOD_PARKED_S = 0.4
"""The same of one that floods: at each reading a good part of it is spent on refusing what it sent meanwhile."""
FLOOD_MESSAGES = 16
"""Of one connection, messages that came together, or requests that wait, by which it counts as one that floods."""
RENEW_AFTER_S = 0.01
"""Where a call ends whose place a waiting request may take, connections are read that were parked for so long, unless
there are as many as DIRECT_FROM: of what their robots have sent meanwhile the newest is to be served."""
_WAITS_SINCE = attrgetter("waits_since")
_READS_WHILE_WAITING = 2  # of a connection whose requests wait, before it is parked
DIRECT_FROM = 32
"""Where so many connections are parked, each is read when its request is dispatched, and stays parked while the next
one waits: that spares two calls to the poller for every answer. Fewer are read by what the poller says, several times
while a request waits, so that what is served is newer."""


class Parking:
    """Parks connections, and resumes each after `PARKED_S`, or `FLOOD_PARKED_S`, at the latest."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waits: Callable[[int], int] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.due: deque[ClientConnection] = deque()
        """Parked connections that are to be read next, the first of them first."""

    def start(self, loop: asyncio.AbstractEventLoop, waits: Callable[[int], int] | None) -> None:
        """Parks from now on; `waits` returns how many requests of the connection with a number wait."""
        self._loop, self._waits = loop, waits

    def stop(self) -> None:
        """Parks no more, and reads all."""
        self._waits = None
        for client in [*self._connections.parked, *self._connections.parked_floods]:
            self._connections.resume(client)
        if self._timer is not None:
            self._timer.cancel()

    def park(self, client: ClientConnection, *, pressed: bool) -> bool:
        """Returns whether a readable connection is left unread, because its requests wait already.

        One that is served within a few of its observations is not parked.

        Args:
            client: the connection.
            pressed: more connections are readable than are read in one go.
        """
        if self._waits is None or not client.number or not (waiting := self._waits(client.number)):
            client.reads = 0
            return False
        client.reads += 1
        if client.reads <= _READS_WHILE_WAITING and not pressed:
            return False
        if not client.newest_only:  # else it is known how many messages came together
            client.floods = waiting >= FLOOD_MESSAGES
        self._enter(client)
        client.waits_since = client.parked_at
        self._connections.update_events(client)
        self._set_timer()
        return True

    def _enter(self, client: ClientConnection) -> None:
        client.parked_at = time.monotonic()
        (self._connections.parked_floods if client.floods else self._connections.parked)[client] = None

    def resume(self, client: ClientConnection) -> None:
        """Has a connection read again that may be parked, as a request of it does not wait any longer."""
        if client.due:
            return
        if client.parked_at and self._connections.parked_count >= DIRECT_FROM:
            client.due = True
            self.due.append(client)
        else:
            self._connections.resume(client)

    def renew(self) -> bool:
        """Has parked connections read next that may have something newer than what waits; returns whether any may."""
        if self._connections.parked_count < DIRECT_FROM:
            before = time.monotonic() - RENEW_AFTER_S
            stale = [client for client in self._connections.parked if client.parked_at <= before and not client.due]
            for client in stale:
                client.due = True
            self.due += sorted(stale, key=_WAITS_SINCE)  # what waits longest is mostly in that call
        return bool(self.due)

    def take_due(self, limit: int) -> list[ClientConnection]:
        """Returns up to so many connections that are to be read although they are parked; `settle` must follow."""
        return [self.due.popleft() for _ in range(min(limit, len(self.due)))]

    def settle(self, client: ClientConnection) -> None:
        """Leaves a parked connection that was read parked if its requests wait again, else resumes it."""
        if client.gone or client.due or not client.parked_at:
            return
        if self._waits is not None and self._waits(client.number):
            self._connections.parked.pop(client, None)
            self._connections.parked_floods.pop(client, None)
            self._enter(client)
        else:
            self._connections.resume(client)

    def resume_some(self) -> None:
        """Resumes the connections that have been parked for long enough; the poller finds them readable."""
        now, connections = time.monotonic(), self._connections
        for parked, since in (
            (connections.parked, now - max(PARKED_S, RESUME_EACH_S * len(connections.parked))),
            (connections.parked_floods, now - FLOOD_PARKED_S),
        ):
            while parked and (client := next(iter(parked))).parked_at <= since:
                connections.resume(client)
                client.reads = _READS_WHILE_WAITING - 1  # once; then it is parked again if its requests still wait

    def _set_timer(self) -> None:
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(PARKED_S, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.resume_some()
        if self._connections.parked or self._connections.parked_floods:
            self._set_timer()
