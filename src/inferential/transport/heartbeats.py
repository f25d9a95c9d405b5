"""Ends connections whose peers are not heard of for as long as their PINGs said (ZMTP 3.1, time to live).

libzmq sends one with ZMQ_HEARTBEAT_TTL: a robot that wants its server to notice soon that it is gone.
"""

from __future__ import annotations

import asyncio
import time

from inferential.transport.connections import ClientConnection, Connections

GRACE_S = 0.5
"""After its time, a peer may still be heard of: what it sent meanwhile was not read where the event loop stood."""


class Heartbeats:
    """The peers that have given a time to live."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._heard_at: dict[ClientConnection, float] = {}  # in seconds of `time.monotonic()`
        self._timer: asyncio.TimerHandle | None = None
        connections.on_closed.append(self._on_closed)

    def __len__(self) -> int:
        return len(self._heard_at)

    def heard(self, client: ClientConnection, loop: asyncio.AbstractEventLoop | None) -> None:
        """Notes that something was received of a peer that has given a time to live."""
        now = time.monotonic()
        self._heard_at[client] = now
        if self._timer is None and loop is not None:
            self._timer = loop.call_later(client.stream.ttl_s, self._look, loop)

    def stop(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ends the connections that are silent for too long, and sets the timer for the next."""
        now, soonest = time.monotonic(), float("inf")
        for client, heard_at in list(self._heard_at.items()):
            ttl_s = client.stream.ttl_s
            if not ttl_s:  # the peer has taken it back
                del self._heard_at[client]
            elif now < heard_at + ttl_s + GRACE_S:
                soonest = min(soonest, heard_at + ttl_s + GRACE_S)
            elif client.queued or client.parked_at or client.stream.has_unread():
                soonest = now + GRACE_S  # it has sent something that is not looked at yet
            else:
                self._connections.drop(client, f"nothing came for the {ttl_s:g} s that its PING said")
        self._timer = loop.call_later(max(soonest - now, GRACE_S), self._look, loop) if self._heard_at else None

    def _on_closed(self, client: ClientConnection) -> None:
        self._heard_at.pop(client, None)
