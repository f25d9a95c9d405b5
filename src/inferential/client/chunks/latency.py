"""What the newest round trips took, from an observation to the arrival of its chunk. No clock.

The next chunk is requested by how long a round trip may take. Of a busy server a high quantile tells that: a few late
chunks cost less than a fleet that asks early. A network is another matter: a lost packet holds up all behind it for
200 ms or more, in few of the round trips, so that the longest time on the network lately counts, and what is usual on
the server with it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from itertools import islice

WINDOW = 64
LATELY = 5
_STALE_S = 1.0
_STALE_TRANSITS = 4
_LOSS_TIMES, _LOSS_S = 2.0, 0.1  # of what is usual, and beyond it: by jitter alone none takes so long
_NUDGE_SHARE = 0.4  # of the usual time on the network
_LEAST_NUDGE_S = 0.04  # a system sends again after 0.2 s by itself, and a busy server is to have little of it
_LATE_TIMES = 1.25
_KNOWN_AFTER, _FAR_S = 16, 0.02


class RoundTrips:
    """The newest round trips, in seconds."""

    def __init__(self) -> None:
        self._newest: deque[float] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._newest)

    def note(self, seconds: float) -> None:
        """Adds a measured round trip."""
        self._newest.append(seconds)
        insort(self._sorted, seconds)
        if len(self._newest) > WINDOW:
            del self._sorted[bisect_left(self._sorted, self._newest.popleft())]

    def quantile(self, share: float) -> float:
        """Returns the round trip in seconds that this share of the newest did not exceed; nan before the first."""
        if not self._sorted:
            return math.nan
        return self._sorted[min(math.ceil(share * len(self._sorted)), len(self._sorted)) - 1]

    def lately(self) -> float:
        """Returns the median of the newest few, in seconds; nan before the first."""
        newest = sorted(islice(reversed(self._newest), LATELY))
        return newest[(len(newest) - 1) // 2] if newest else math.nan


class Latency:
    """What round trips took, and how much of that was the network's, in seconds."""

    def __init__(self) -> None:
        self.trips: RoundTrips = RoundTrips()
        self._networks = RoundTrips()  # of the same round trips, without the time on the server
        self._servers = RoundTrips()
        self._transits = RoundTrips()  # on the network, those of chunks that were too late to be played included
        self._stale_at = -math.inf  # when the last of these came
        self.was_away: bool = False
        """Whether nothing was heard of the server for long, and no chunk was played since."""

    def note(self, trip_s: float, server_s: float) -> None:
        """Adds a measured round trip, and how much of it was on the server; nan where that is not known."""
        self.was_away = False
        self.trips.note(trip_s)
        if server_s == server_s:
            self._networks.note(max(trip_s - server_s, 0.0))
            self._servers.note(server_s)

    def lead(self, quantile: float) -> float:
        """Returns how long a round trip may take in seconds: this quantile, and no less than the longest time on the
        network and what is usual on the server together; nan before the first.
        """
        lead_s = self.trips.quantile(quantile)
        if not len(self._networks):
            return lead_s
        return max(lead_s, self._networks.quantile(1.0) + self._servers.quantile(0.5))

    @property
    def is_hardly_known(self) -> bool:
        """Whether there were too few round trips over a network that takes long to tell how long one may take: as soon
        as a packet is lost it is three times as long."""
        return 0 < len(self._networks) < _KNOWN_AFTER and self._networks.quantile(0.5) >= _FAR_S

    def nudge_s(self) -> tuple[float, float]:
        """Returns when an open request is nudged for the first time, in seconds after it was sent, and how often then.

        On a network that has lost something lately, or was away: all the time. Else: as soon as the answer is so late
        that it, or its observation, was probably lost. Infinite where nothing is known.
        """
        if not len(self._networks):
            return math.inf, math.inf
        usual_s, longest_s = self._networks.quantile(0.5), self._networks.quantile(1.0)
        if self.was_away or (longest_s > _LOSS_TIMES * usual_s and longest_s > usual_s + _LOSS_S):
            every_s = max(usual_s * _NUDGE_SHARE, _LEAST_NUDGE_S)
            return every_s, every_s
        every_s = max(usual_s / 2, _LEAST_NUDGE_S)
        return self._servers.quantile(0.95) + max(_LATE_TIMES * usual_s, every_s), every_s

    def is_stale(self, trip_s: float, server_s: float, now: float, *, is_late: bool) -> bool:
        """Returns whether a chunk was so much longer on the network than usual that a new observation is better."""
        if server_s != server_s:
            return False
        transit_s = max(trip_s - server_s, 0.0)
        usual_s = self._transits.quantile(0.5) if len(self._transits) else math.inf  # it may take seconds
        is_stale = is_late and transit_s > max(_STALE_S, _STALE_TRANSITS * usual_s)
        if not is_stale or now - trip_s >= self._stale_at:  # what an outage has held up comes all at once
            self._transits.note(transit_s)
        if is_stale:
            self._stale_at = now
        return is_stale
