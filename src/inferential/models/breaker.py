"""When a model is not asked any more, and when it is asked again. No I/O and no clock.

closed --a run of failures--> open --after a pause--> probing --success--> closed
                               ^                         |
                               +--------failure----------+   (a longer pause each time)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """When a breaker opens.

    Attributes:
        failures: so many in a row; None: never.
        pause_s: from then to the first probe; twice as long after each probe that fails.
    """

    failures: int | None = 10
    pause_s: float = 1.0


class Breaker:
    """Judges one pool by the outcomes of its requests.

    A run of failures is one of the pool only if no robot that has asked lately is left out of it: one robot whose
    observations fail, however many it sends, ends nothing for the others.

    Args:
        limits: when it opens.
    """

    def __init__(self, limits: BreakerLimits) -> None:
        self.limits = limits
        self.why: str = ""
        self.opened_at: float | None = None
        self._run = 0
        self._failing: set[str] = set()
        self._pause_s = limits.pause_s
        self._probe_at = math.inf
        self._probes = False

    @property
    def open(self) -> bool:
        """Whether the pool is not asked."""
        return self.opened_at is not None

    def succeeded(self) -> None:
        """Notes a result."""
        self._run = 0
        self._failing.clear()

    def failed(self, client_id: str, why: str, now: float, lately: Callable[[], Collection[str]]) -> bool:
        """Notes a failure; returns whether the breaker has opened by it.

        Args:
            client_id: whose request it was.
            why: in words.
            now: seconds.
            lately: returns the robots that have asked lately.
        """
        self._failing.add(client_id)
        self._run += 1
        if self.open or self.limits.failures is None or self._run < self.limits.failures:
            return False
        if set(lately()) - self._failing:
            return False
        self.opened_at, self.why = now, f"{self._run} requests failed in a row, the last: {why}"
        self._pause_s = self.limits.pause_s
        self._probe_at = now + self._pause_s
        return True

    def probe_at(self) -> float | None:
        """Returns when to probe next; None while it is closed, or a probe runs."""
        return self._probe_at if self.open and not self._probes else None

    def probe_begun(self) -> None:
        """Notes that a probe runs; there is one at a time."""
        self._probes = True

    def probe_ended(self, now: float, *, ok: bool, why: str = "") -> None:
        """Notes the outcome of the probe; a success closes the breaker."""
        self._probes = False
        if ok:
            self.opened_at, self.why, self._run = None, "", 0
            self._failing.clear()
            return
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._probe_at = now + self._pause_s
        if why:
            self.why = f"{self.why.partition(', the last:')[0]}, the last: {why}"
