"""Quantiles of the newest round trips, from an observation to the arrival of its chunk. No clock."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

WINDOW = 64


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
