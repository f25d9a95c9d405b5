"""Which models load now: as many at once as there are cores, so that robots of those that answer keep their times.

One that takes long, as it reads weights or waits for a network, lets the next one begin.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from inferential.replica.condition import Condition

PATIENCE_S = 1.0
"""After so long a model that still loads keeps no other from it."""


class Turn:
    """One model's turn to load.

    Args:
        begin: begins to load it.

    Attributes:
        waits: whether it was asked for, and has yet to come.
    """

    __slots__ = ("_turns", "begin", "waits")

    def __init__(self, turns: LoadingTurns, begin: Callable[[], None]) -> None:
        self._turns = turns
        self.begin = begin
        self.waits = False

    def take(self) -> None:
        """Has it come when there is a place, which may be now."""
        self._turns.take(self)

    def said_of(self, condition: Condition) -> Condition:
        """Returns the condition of its model, with the reason while it waits."""
        if not self.waits or not condition.starts:
            return condition
        return replace(condition, why="it waits for its turn, as others load", logged=True)

    def end(self) -> None:
        """Lets the next one begin, or gives it up. Twice is fine."""
        self._turns.end(self)


class LoadingTurns:
    """Gives turns in the order in which they were asked for; used on one event loop at a time.

    Args:
        places: how many models load at once; None: as many as there are cores.
    """

    def __init__(self, places: int | None = None) -> None:
        self._places = places or cores()
        self._waiting: deque[Turn] = deque()
        self._loading: dict[Turn, asyncio.TimerHandle] = {}

    def turn(self, begin: Callable[[], None]) -> Turn:
        """Returns a turn, to be taken and, once its model has loaded, to be ended."""
        return Turn(self, begin)

    def take(self, turn: Turn) -> None:
        """As `Turn.take`."""
        turn.waits = True
        self._waiting.append(turn)
        self._go_on()

    def end(self, turn: Turn) -> None:
        """As `Turn.end`."""
        timer = self._loading.pop(turn, None)
        if timer is not None:
            timer.cancel()
        elif turn.waits:
            turn.waits = False
            self._waiting.remove(turn)
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and len(self._loading) < self._places:
            turn = self._waiting.popleft()
            turn.waits = False
            self._loading[turn] = asyncio.get_running_loop().call_later(PATIENCE_S, turn.end)
            turn.begin()


def cores() -> int:
    """Returns how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # of Linux
        return os.cpu_count() or 1
