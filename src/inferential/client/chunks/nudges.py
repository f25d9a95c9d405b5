"""When a robot whose answer is late sends the server a sign of life, so that what was lost is sent again. No clock.

Whatever comes after lost data tells the system that sent it so; with nothing behind it, it waits for its timer, twice
as long each time (RFC 8985). While nothing is heard at all the network is away: it would be one heap.
"""

from __future__ import annotations

import math

from inferential.client.chunks.latency import Latency

SILENCE_S = 1.5
"""The server was not heard of for so long: the network is away, as links ask it for a sign of life every second."""
_MOST = 8  # of a request
_ROUNDING_S = 1e-9


class Nudges:
    """The signs of life that were sent for the newest request."""

    def __init__(self) -> None:
        self._at = -math.inf
        self._count = 0

    def begin(self) -> None:
        """Notes a new request."""
        self._count = 0

    def is_due(self, now: float, waits_s: float, silence_s: float, latency: Latency) -> bool:
        """Returns whether to send one now, which is counted.

        Args:
            now: seconds of a monotonic clock.
            waits_s: for how long the newest request has had no answer.
            silence_s: for how long the server was not heard of; nan: not known.
            latency: what round trips took.
        """
        if self._count == _MOST:
            return False
        first_s, every_s = latency.nudge_s()
        if waits_s < first_s - _ROUNDING_S or now - self._at < every_s - _ROUNDING_S:
            return False
        if silence_s > SILENCE_S or (latency.was_away and silence_s < first_s):
            return False  # a fresh connection is silent since it stands, and not since it was asked
        self._count, self._at = self._count + 1, now
        return True
