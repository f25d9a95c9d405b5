"""Keeps the event loop awake while the answer of a short call is due, or the call that follows it (busy polling).

An idle processor takes 25 to 100 us to wake up, as long as a short call, and runs slowly at first. For the moment that
the answer takes, and then the robot that asks again at once, the loop looks at its sockets turn after turn in place of
sleeping; all else goes on in these turns. Robots that ask less often are not looked for.
"""

from __future__ import annotations

import asyncio
import os
import time

LOOK_S = 200e-6
"""How long it looks for the answer of a call, or for the next call, at most."""
_PREEMPTED_S = 50e-6
_MISSES = 4  # more than times that paid: they end it
_FEWEST_CALLS, _MOST_CALLS = 16, 1024  # without it, after a time that was in vain


class Usefulness:
    """Judges whether looking pays: not where others want the processor, nor where most that is looked for takes longer.

    It reads no clock.
    """

    __slots__ = ("_misses", "_pause", "_skipped")

    def __init__(self) -> None:
        self._misses = 0
        self._skipped = 0  # calls still to come without it
        self._pause = _FEWEST_CALLS

    def begins(self) -> bool:
        """Returns whether to look this time."""
        if self._skipped:
            self._skipped -= 1
            return False
        return True

    def ended(self, looked_s: float, ran_s: float, *, came: bool) -> None:
        """Takes in how one time went.

        Args:
            looked_s: for how long it looked.
            ran_s: for how long of that the thread had a processor.
            came: whether there was what it looked for.
        """
        preempted = looked_s - ran_s >= _PREEMPTED_S
        if came and not preempted:
            self._misses, self._pause = max(self._misses - 1, 0), _FEWEST_CALLS
            return
        self._misses += 1
        if self._misses < _MISSES and not preempted:
            return
        self._misses, self._skipped = 0, self._pause
        self._pause = min(2 * self._pause, _MOST_CALLS)


class BusyPolling:
    """Looks for the answers of one process, and for the calls that follow answers; used on the event loop."""

    def __init__(self) -> None:
        self._answers, self._calls = Usefulness(), Usefulness()
        self._announcements = Usefulness()
        self._is_announced = False  # the call that comes next
        self._for: Usefulness | None = None  # what it looks for now
        self._scheduled = False
        self._has_room = (os.cpu_count() or 1) > 1  # else the process could not answer meanwhile
        self._until = 0.0  # 0: it has not begun; what comes within the same turn of the loop needs no clock
        self._began = self._ran_s = 0.0

    def announces(self) -> bool:
        """Returns whether to have the process look for a call, of which the loop has found the observation by looking.

        For a robot that asks less often, for whose observation the loop slept, it was measured to take longer so.
        """
        if self._is_announced:  # none has followed
            self._is_announced = False
            self._announcements.ended(0.0, 0.0, came=False)
        self._is_announced = self._for is self._calls and self._announcements.begins()
        return self._is_announced

    def call_sent(self, loop: asyncio.AbstractEventLoop) -> None:
        """Looks for the answer of a call that was just sent, where that pays."""
        if self._is_announced:
            self._is_announced = False
            self._announcements.ended(0.0, 0.0, came=True)
        if self._for is self._answers:
            if self._until:
                self._until = time.perf_counter() + LOOK_S
            return
        self._look_for(self._answers, loop)

    def all_answered(self, loop: asyncio.AbstractEventLoop) -> None:
        """Looks for the next call, as robots that ask again at once send it, where that pays."""
        self._look_for(self._calls, loop)

    def stop(self) -> None:
        """Looks no more; what follows may be on another event loop."""
        self._for, self._scheduled = None, False

    def _look_for(self, useful: Usefulness, loop: asyncio.AbstractEventLoop) -> None:
        """Looks for something else: what it has looked for is there."""
        if self._for is not None and self._until:
            self._end(time.perf_counter(), came=True)
        self._until = 0.0
        self._for = useful if self._has_room and useful.begins() else None
        if self._for is not None and not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._for is not None:
            now = time.perf_counter()
            if not self._until:
                self._began, self._until, self._ran_s = now, now + LOOK_S, time.thread_time()
            if now < self._until:
                loop.call_soon(self._look, loop)
                return
            self._end(now, came=False)
            self._for = None
        self._scheduled = False

    def _end(self, now: float, *, came: bool) -> None:
        assert self._for is not None
        self._for.ended(now - self._began, time.thread_time() - self._ran_s, came=came)
