"""What a worker process shows of itself to its dispatcher, and what that tells it beside calls."""

from __future__ import annotations

import json
import time
from collections.abc import Sized

from inferential.replica.busy_polling import BusyPolling
from inferential.replica.channel import Stream
from inferential.replica.condition import Condition
from inferential.replica.lifecycle import Lifecycle
from inferential.replica.loading_turns import Turn
from inferential.replica.pace import SHARED_ROWS, Pace
from inferential.replica.spawn import Spawned
from inferential.replica.wire import GONE, NO_CALL, Greeting

_QUICK_INFLIGHT = 2  # of a model whose hand-overs are short: the next call is there when one ends


class WorkerView:
    """The part of `WorkerProcess` that changes nothing of it.

    Attributes:
        greeting: what the process has said of itself; None while it takes no calls.
    """

    greeting: Greeting | None
    _problem: str
    _process: Spawned | None
    _stream: Stream | None
    _calls: Sized
    _polling: BusyPolling
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

    def expect_call(self) -> None:
        """Has the process look for a call that may follow in a moment, where that pays."""
        if self._stream is not None and self._pace.quick and not self._calls and self._polling.announces():
            self._stream.announce()

    def end_session(self, client_id: str) -> None:
        """Ends the session of a robot that is gone."""
        if self._stream is not None and self.greeting is not None and self.greeting.keeps_state:
            self._stream.send([NO_CALL, GONE, json.dumps([client_id]).encode()])
