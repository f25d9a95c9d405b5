"""What a worker process shows of itself to its dispatcher."""

from __future__ import annotations

import time

from inferential.replica.condition import Condition
from inferential.replica.lifecycle import Lifecycle
from inferential.replica.loading_turns import Turn
from inferential.replica.pace import SHARED_ROWS, Pace
from inferential.replica.spawn import Spawned
from inferential.replica.wire import Greeting

_QUICK_INFLIGHT = 2  # of a model whose hand-overs are short: the next call is there when one ends


class WorkerView:
    """The part of `WorkerProcess` that changes nothing.

    Attributes:
        greeting: what the process has said of itself; None while it takes no calls.
    """

    greeting: Greeting | None
    _problem: str
    _process: Spawned | None
    _pace: Pace
    _life: Lifecycle
    _turn: Turn

    @property
    def up(self) -> bool:
        """Whether it takes calls."""
        return self.greeting is not None

    def condition(self) -> Condition:
        """Returns what it is at."""
        return self._turn.said_of(self._life.condition(time.monotonic()))

    @property
    def problem(self) -> str | None:
        """Why it takes no calls; None where it does."""
        return None if self.up else self._problem

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return None if self._process is None else self._process.pid

    @property
    def max_batch_size(self) -> int:
        """Rows that one call takes; of a model without `infer_batch`, rows that go over together."""
        greeting = self.greeting
        if greeting is None:
            return 1
        return SHARED_ROWS if greeting.runs_singly and self._pace.shares else greeting.max_batch_size

    @property
    def max_inflight(self) -> int:
        """Calls that it takes at once, of which it runs one; 0 while it takes none."""
        if self.greeting is None:
            return 0
        return _QUICK_INFLIGHT if self._pace.shares else self.greeting.max_inflight
