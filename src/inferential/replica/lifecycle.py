"""When a worker process is started again, and when what it does takes too long.

No I/O and no clock: events and the time, in seconds of `time.monotonic()`, go in.
"""

from __future__ import annotations

import math

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 30.0
FORGIVEN_AFTER_S = 60.0
"""A process that was up for so long is started again as if it had never failed."""


class Lifecycle:
    """The deadlines of one worker process, over all its restarts.

    Args:
        load_timeout_s: how long loading may take.
        call_timeout_s: how long one call may take; None: for ever.
    """

    def __init__(self, load_timeout_s: float, call_timeout_s: float | None) -> None:
        self._load_timeout_s = load_timeout_s
        self._call_timeout_s = call_timeout_s
        self._failures = 0
        self._up_at: float | None = None
        self._load_by = math.inf
        self._call_began_at: float | None = None

    def started(self, now: float) -> None:
        """A process was started; it loads its model."""
        self._up_at = None
        self._load_by = now + self._load_timeout_s
        self._call_began_at = None

    def loaded(self, now: float) -> None:
        """The model is there."""
        self._up_at = now
        self._load_by = math.inf

    def ended(self, now: float) -> float:
        """The process has ended; returns after how many seconds to start another one."""
        if self._up_at is not None and now - self._up_at >= FORGIVEN_AFTER_S:
            self._failures = 0
        self._up_at, self._load_by, self._call_began_at = None, math.inf, None
        delay = min(FIRST_DELAY_S * 2.0**self._failures, LONGEST_DELAY_S)
        self._failures = min(self._failures + 1, 64)
        return delay

    def call_sent(self, now: float) -> None:
        """A call was sent; it runs at once where none ran."""
        if self._call_began_at is None:
            self._call_began_at = now

    def call_answered(self, now: float, more: bool) -> None:
        """The oldest call was answered; with `more` of them, the next one runs from now on."""
        self._call_began_at = now if more else None

    def deadline(self) -> float:
        """Returns when what the process does now has taken too long; inf: never."""
        if self._load_by < math.inf:
            return self._load_by
        if self._call_began_at is None or self._call_timeout_s is None:
            return math.inf
        return self._call_began_at + self._call_timeout_s
