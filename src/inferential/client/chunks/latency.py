"""Quantiles of the newest round trips, from an observation to the arrival of its chunk. No clock."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from itertools import islice

WINDOW = 64
LATELY = 5


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
