"""When a worker process is started again, when what it does takes too long, and what it is at.

No I/O and no clock: events and the time, in seconds of `time.monotonic()`, go in.
"""

from __future__ import annotations

import math

from inferential.replica.condition import HUNG_AFTER_S, Condition, ModelState

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 30.0
FORGIVEN_AFTER_S = 60.0
"""A process that was up for so long is started again at once, as one that was up at all is for the first time."""


class Lifecycle:
    """The deadlines of one worker process, over all its restarts.

    Args:
        load_timeout_s: how long loading may take, its warm-up included.
        call_timeout_s: how long one call may take; None: for ever.
    """

    def __init__(self, load_timeout_s: float, call_timeout_s: float | None) -> None:
        self._load_timeout_s = load_timeout_s
        self._call_timeout_s = call_timeout_s
        self._failures = 0
        self._up_at: float | None = None
        self._load_by = math.inf
        self._call_began_at: float | None = None
        self._condition = Condition(ModelState.STOPPED, -math.inf, "it has not been started")
        self._why = ""  # the latest process ended
        self._is_new = True
        self._unloaded = 1  # processes in a row that ended before their model was there; none has been up yet

    def condition(self, now: float) -> Condition:
        """Returns what the process is at."""
        began = self._call_began_at
        if self._condition.answers and began is not None and now - began > HUNG_AFTER_S:
            return Condition(ModelState.HUNG, began, f"a call has run for more than {HUNG_AFTER_S:.0f} s")
        return self._condition

    @property
    def broken(self) -> bool:
        """Whether the model cannot be loaded, so that waiting for it is of little use: of one that was up before, a
        process that ends while it loads may have been killed, and the next one decides."""
        return self._unloaded > 1

    @property
    def is_new(self) -> bool:
        """Whether the model has never been there: no robot has been answered that would wait for it."""
        return self._is_new

    def started(self, now: float) -> None:
        """A process was started; it loads its model."""
        self._up_at = None
        self._load_by = now + self._load_timeout_s
        self._call_began_at = None
        if self.broken:
            return  # it is failing until its model is there, however often that is tried
        why = self._why and f"it is started again: {self._why}"
        self._condition = Condition(ModelState.LOADING, now, why, logged=bool(why))

    def warming(self, now: float) -> None:
        """The model was made, and runs its warm-up."""
        if not self.broken:
            self._condition = Condition(ModelState.WARMING, now, self._condition.why)

    def loaded(self, now: float) -> None:
        """The model is there."""
        self._up_at = now
        self._unloaded, self._is_new = 0, False
        self._load_by = math.inf
        self._condition = Condition(ModelState.READY, now, logged=True)

    def ended(self, now: float, why: str = "", *, hung: bool = False) -> float:
        """The process has ended; returns after how many seconds to start another one."""
        if self._up_at is not None and now - self._up_at >= FORGIVEN_AFTER_S:
            self._failures = 0
        self._unloaded += self._up_at is None
        at_once = self._up_at is not None and not self._failures  # robots wait for it
        self._up_at, self._load_by, self._call_began_at = None, math.inf, None
        self._why = why
        if self._condition.state is not ModelState.STOPPED:
            state = ModelState.HUNG if hung else ModelState.FAILING
            since = self._condition.since if self._condition.hopeless else now
            self._condition = Condition(state, since, why, logged=True, hopeless=self.broken)
        delay = 0.0 if at_once else min(FIRST_DELAY_S * 2.0**self._failures, LONGEST_DELAY_S)
        self._failures = min(self._failures + 1, 64)
        return delay

    def closed(self, now: float) -> None:
        """The process is ended, and none is started again."""
        self._why = ""
        self._condition = Condition(ModelState.STOPPED, now)

    def call_sent(self, now: float) -> None:
        """A call was sent; it runs at once where none ran."""
        if self._call_began_at is None:
            self._call_began_at = now

    def call_answered(self, now: float, more: bool) -> None:
        """The oldest call was answered; with `more` of them, the next one runs from now on."""
        self._call_began_at = now if more else None

    def deadline(self, row_began_at: float = 0.0) -> float:
        """Returns when what the process does now has taken too long; inf: never.

        Args:
            row_began_at: when the latest row began, as the process says: of those that are run one after another in a
                call, each has the time of a call.
        """
        if self._load_by < math.inf:
            return self._load_by
        if self._call_began_at is None or self._call_timeout_s is None:
            return math.inf
        return max(self._call_began_at, row_began_at) + self._call_timeout_s
