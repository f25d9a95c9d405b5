"""A timer for a deadline that moves: it is not set anew with each move, so it may ring early, and is set again then."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable


class Deadline:
    """Calls a function once a deadline has passed; used on the event loop.

    Args:
        at: returns the deadline as it is now, in seconds of `time.monotonic()`; inf: there is none.
        passed: what is called.

    Attributes:
        watched: whether a timer is set.
    """

    __slots__ = ("_at", "_passed", "_timer", "watched")

    def __init__(self, at: Callable[[], float], passed: Callable[[], None]) -> None:
        self._at = at
        self._passed = passed
        self._timer: asyncio.TimerHandle | None = None
        self.watched = False

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watches it from now on, where there is one."""
        self.stop()
        at = self._at()
        if at < math.inf:
            self.watched = True
            self._timer = loop.call_later(max(at - time.monotonic(), 0.0), self._ring)

    def stop(self) -> None:
        """Watches it no more. Twice is fine."""
        self.watched = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self.watched, self._timer = False, None
        if self._at() > time.monotonic():
            self.watch(asyncio.get_running_loop())
        else:
            self._passed()
