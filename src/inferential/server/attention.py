"""Says which connections are read at once, and which later.

Later are those whose requests wait, and those that send over and over what is refused on arrival, such as observations
for a model that there is not, or that use ever new client ids: nothing of these waits, and reading them costs others as
much as if it did.
"""

from __future__ import annotations

import time

from inferential.scheduler.engine import Engine
from inferential.server.ingress import IncomingRequest
from inferential.server.renewals import Renewals

CHARGED_PER_S = 100.0
"""Messages a second of one connection that may be refused on arrival, or be of a new client, while it is read at
once."""
CHARGED_BURST = 50
_MOST = CHARGED_BURST + CHARGED_PER_S  # so that a second after the last of them it is read at once again


class Attention:
    """How much of the server's time the connections get, by their numbers.

    Args:
        engine: knows what waits.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._renewing: set[int] = set()  # connections of robots that are asked for newer observations
        self._renewals = Renewals()
        self._charged: dict[int, tuple[float, float]] = {}  # a leaky bucket: its level, and when that was

    def waits(self, connection: int) -> int:
        """Returns for how many messages a connection may be read later; 0: it is read at once.

        What a robot sends while it waits because it was asked for a newer observation is wanted at once.
        """
        waiting = self._engine.waits(connection)
        if connection in self._renewing:
            return 0
        return max(waiting, self.excess(connection)) if self._charged else waiting

    def look_at(self, incoming: IncomingRequest) -> None:
        """Notes whether a request renews another, as its robot says, or only claims it (`renewals`)."""
        connection = incoming.request.connection
        if self._renewals.accepts(connection, incoming.request.received_at):
            self._renewing.add(connection)
        else:
            incoming.renews = False
            self._renewing.discard(connection)

    def charge(self, connection: int, now: float, count: int = 1) -> None:
        """Notes messages of a connection that were refused as they came, or cost as much.

        Args:
            connection: its number; those of clients in this process, below 0, are not counted.
            now: when they came, in seconds of `time.monotonic()`.
            count: of how many there were.
        """
        if connection > 0:
            self._charged[connection] = min(self._level(connection, now) + count, _MOST), now

    def _level(self, connection: int, now: float) -> float:
        level, at = self._charged.get(connection, (0.0, now))
        return max(level - (now - at) * CHARGED_PER_S, 0.0)

    def excess(self, connection: int) -> int:
        """Returns how many messages of a connection were charged beyond what one may have."""
        if connection not in self._charged:
            return 0
        level = self._level(connection, time.monotonic())
        if not level:  # as soon after the first message of a client
            del self._charged[connection]
        return max(int(level) - CHARGED_BURST, 0)

    def forget(self, connection: int) -> None:
        """Forgets a connection that has ended."""
        self._renewing.discard(connection)
        self._renewals.forget(connection)
        self._charged.pop(connection, None)
