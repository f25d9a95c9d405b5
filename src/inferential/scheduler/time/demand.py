"""Demand for a model: its arrivals per second, and how many clients they come from.

It keeps no request and has no clock.
"""

from __future__ import annotations

import math
from collections import OrderedDict

MEMORY_S = 1.0
"""Arrivals count by exp(-age / MEMORY_S); a client counts until it was silent for so long."""


class Demand:
    """The arrivals of one model."""

    __slots__ = ("_began_at", "_clients", "_count", "_last")

    def __init__(self) -> None:
        self._count = 0.0
        self._last = -math.inf
        self._began_at = math.nan
        self._clients: OrderedDict[str, float] = OrderedDict()

    def note(self, client_id: str, now: float) -> None:
        """Counts a request of a client."""
        if self._began_at != self._began_at:
            self._began_at = now
        self._count = self._count * math.exp(-max(now - self._last, 0.0) / MEMORY_S) + 1.0
        self._last = now
        self._clients[client_id] = now
        self._clients.move_to_end(client_id)
        self._forget(now)

    def per_second(self, now: float) -> float:
        """Returns the arrivals per second over about the last second, or since the first one if that is less."""
        if not self._count:
            return 0.0
        # A count that has run for t holds 1 - exp(-t / MEMORY_S) of what it will hold for ever.
        filled = 1.0 - math.exp(-max(now - self._began_at, 0.05) / MEMORY_S)
        return self._count * math.exp(-max(now - self._last, 0.0) / MEMORY_S) / (MEMORY_S * filled)

    def last_per_second(self) -> float:
        """Returns the rate as it was at the last arrival, which stays the same until the next."""
        return self.per_second(self._last)

    def clients(self, now: float) -> int:
        """Returns how many clients sent a request in the last second."""
        self._forget(now)
        return len(self._clients)

    def _forget(self, now: float) -> None:
        while self._clients:
            client_id, seen = next(iter(self._clients.items()))
            if now - seen <= MEMORY_S:
                return
            del self._clients[client_id]
