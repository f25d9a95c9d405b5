"""The requests of a connection that fell silent: another connection of the same life may get their answers.

A server whose model holds the interpreter's lock, or that is stopped for a while, answers no heartbeat, and the robot
connects anew. What it asked before is not lost by that: the server has the observations, or gets them from the system
once it goes on. No I/O of its own, no clock.
"""

from __future__ import annotations

import os

from inferential.client.link import Link
from inferential.client.session import Session
from inferential.zmtp.protocol import LIFE_BYTES
from inferential.zmtp.stream import WITH_NEXT

AWAITED_S = 60.0
"""How long requests stay open at most while the server stays silent."""


class Returning:
    """What becomes of open requests when a robot's connection is lost.

    Args:
        link: of the only server.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._until = 0.0
        link.life = os.urandom(LIFE_BYTES)
        self.awaited: list[int] = []
        """Requests that were sent by a connection which fell silent, until there is another one."""

    def lost(self, session: Session, now: float) -> int:
        """Ends the open requests of the connection that was lost, unless it fell silent; returns how many ended."""
        if not (self._link.silent and self._link.keeps_answers):
            self._link.life = os.urandom(LIFE_BYTES)  # the server is to keep nothing of what ends here
            return session.lost_all(self._link.lost_reason)
        self._until = now + AWAITED_S
        self.awaited = session.sent_ids()
        return 0

    def settle(self, session: Session, now: float) -> int:
        """Asks a new connection for what is awaited, or ends it where none comes; returns how many ended."""
        link = self._link
        if not link.connected and link.silent and now < self._until:
            return 0
        awaited, self.awaited = self.awaited, []
        if link.connected and link.keeps_answers:
            still_open = set(session.sent_ids())
            awaited = [request_id for request_id in awaited if request_id in still_open]
            flags = WITH_NEXT if session.has_unsent() else 0
            if all(link.try_send(frames, flags) for frames in session.cancellations(awaited, awaited=True)):
                return 0  # the server answers each of them
        link.life = os.urandom(LIFE_BYTES)
        return session.lost(awaited, link.lost_reason)
