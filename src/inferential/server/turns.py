"""Does things in turns of the event loop to come: what takes long a part at a time, and what many ask for once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal


def in_turns(steps: Iterator[None], loop: asyncio.AbstractEventLoop) -> None:
    """Takes the first of some steps, and each that follows in a turn of the loop of its own."""
    if next(steps, steps) is None:
        loop.call_soon(in_turns, steps, loop)


class Soon:
    """Calls a function in a turn of the event loop to come, once however often that is asked for until then.

    Args:
        loop: the event loop.
        call: the function.
        turns: in how many turns, one or two.

    Attributes:
        due: whether it is to be called.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None], turns: Literal[1, 2] = 1) -> None:
        self._call = call
        begin: Callable[[], object] = partial(loop.call_soon, self._run)
        self._begin = begin if turns == 1 else partial(loop.call_soon, begin)
        self.due: bool = False

    def schedule(self) -> None:
        """Has the function called."""
        if not self.due:
            self.due = True
            self._begin()

    def _run(self) -> None:
        self.due = False
        self._call()
