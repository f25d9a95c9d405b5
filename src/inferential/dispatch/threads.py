"""Threads that run a sync model's calls for the event loop.

They are daemons: a model that never returns must not keep the process from ending, as the threads of
`concurrent.futures` would, which the interpreter joins on its way out. How many calls run at once is not decided here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from inferential.dispatch.raised import carriable
from inferential.replica.pending import Pending

_Job = tuple[Pending[Any], Callable[[Any], Any], Any]


class CallThreads:
    """As many threads as calls run at once; an idle one waits for the next call.

    All methods belong to the event loop's thread.

    Args:
        name: of the threads.
        on_return: called when a call returns that was given up.
    """

    def __init__(self, name: str, on_return: Callable[[], None]) -> None:
        self._name = name
        self._on_return = on_return
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = 0
        self._idle = 0
        self._given_up: set[Pending[Any]] = set()

    @property
    def lost(self) -> int:
        """How many calls that were given up still run."""
        return len(self._given_up)

    def call(self, function: Callable[[Any], Any], argument: Any) -> Pending[Any]:
        """Calls `function(argument)` in a thread; what is returned is awaited for its result or what it raised.

        What is no Exception, or is a StopIteration, which no future can carry, becomes a RuntimeError: a model that
        means to end itself ends neither the thread nor the event loop.
        """
        future: Pending[Any] = Pending(asyncio.get_running_loop())
        if self._idle:
            self._idle -= 1
        else:
            self._threads += 1
            threading.Thread(target=self._work, args=(self._jobs,), name=self._name, daemon=True).start()
        self._jobs.put((future, function, argument))
        return future

    def give_up(self, future: Pending[Any]) -> None:
        """Counts a call's thread as lost until the call returns; the caller ends the wait for it."""
        self._given_up.add(future)

    def close(self) -> None:
        """Ends the threads, busy ones after their call. Calls may follow; new threads take them."""
        for _ in range(self._threads):
            self._jobs.put(None)
        self._jobs = SimpleQueue()
        self._threads = self._idle = 0
        self._given_up.clear()

    def _work(self, jobs: SimpleQueue[_Job | None]) -> None:
        while (job := jobs.get()) is not None:
            future, function, argument = job
            result, error = None, None
            try:
                result = function(argument)
            except BaseException as raised:
                error = carriable(raised)
            try:
                future.get_loop().call_soon_threadsafe(self._settle, jobs, future, result, error)
            except RuntimeError:
                return  # the loop is closed: nothing waits for results any more
            del job, future, argument, result, error  # what a model was given and gave lives no longer than its call

    def _settle(
        self, jobs: SimpleQueue[_Job | None], future: Pending[Any], result: Any, error: Exception | None
    ) -> None:
        if jobs is self._jobs:
            self._idle += 1
        if future.done():  # cancelled, or given up
            if future in self._given_up:
                self._given_up.discard(future)
                self._on_return()
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
