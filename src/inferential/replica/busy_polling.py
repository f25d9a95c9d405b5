"""Keeps the event loop awake while the answer of a short call is due (busy polling).

An idle processor takes 25 to 100 us to wake up, as long as a short call, and runs slowly at first. For the moment that
the answer takes the loop looks at its sockets turn after turn in place of sleeping; all else goes on in these turns.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

LOOK_S = 200e-6
"""How long it looks for the answer of a call at most."""
_PREEMPTED_S = 50e-6
_MISSES = 4  # in a row that end it
_FEWEST_CALLS, _MOST_CALLS = 16, 1024  # without it, after a time that was in vain


class Usefulness:
    """Judges whether looking pays: not where others want the processor, nor where answers take longer.

    It reads no clock.
    """

    __slots__ = ("_misses", "_pause", "_skipped")

    def __init__(self) -> None:
        self._misses = 0
        self._skipped = 0  # calls still to come without it
        self._pause = _FEWEST_CALLS

    def begins(self) -> bool:
        """Returns whether to look for the answer of the call that was just sent."""
        if self._skipped:
            self._skipped -= 1
            return False
        return True

    def ended(self, looked_s: float, ran_s: float, *, answered: bool) -> None:
        """Takes in how one time went.

        Args:
            looked_s: for how long it looked.
            ran_s: for how long of that the thread had a processor.
            answered: whether the answer came.
        """
        if answered and looked_s - ran_s < _PREEMPTED_S:
            self._misses, self._pause = 0, _FEWEST_CALLS
            return
        self._misses += 1
        if not answered and self._misses < _MISSES and looked_s - ran_s < _PREEMPTED_S:
            return
        self._misses, self._skipped = 0, self._pause
        self._pause = min(2 * self._pause, _MOST_CALLS)


class BusyPolling:
    """Looks for the answers of one process; used on the event loop.

    Args:
        awaits: returns whether a call has not been answered.
    """

    def __init__(self, awaits: Callable[[], bool]) -> None:
        self._awaits = awaits
        self._useful = Usefulness()
        self._looks = False
        self._has_room = (os.cpu_count() or 1) > 1  # else the process could not answer meanwhile
        self._began = self._until = self._ran_s = 0.0

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Looks for the answer of a call that was just sent, where that pays."""
        if self._looks:
            self._until = time.perf_counter() + LOOK_S
        elif self._has_room and self._useful.begins():
            self._looks = True
            self._began, self._ran_s = time.perf_counter(), time.thread_time()
            self._until = self._began + LOOK_S
            loop.call_soon(self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.perf_counter()
        awaits = self._awaits()
        if awaits and now < self._until:
            loop.call_soon(self._look, loop)
            return
        self._looks = False
        self._useful.ended(now - self._began, time.thread_time() - self._ran_s, answered=not awaits)
