"""Threads for the calls of a sync model, handed to and from the event loop without polling.

They are daemons: a call that never returns must not keep the process from ending, as the threads of
`concurrent.futures` would, which the interpreter joins on its way out. How many calls run at once is not decided here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

_Job = tuple[asyncio.Future[Any], Callable[[Any], Any], Any]


class CallThreads:
    """As many threads as calls run at once; an idle one waits for the next call.

    All methods belong to the event loop's thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = 0
        self._idle = 0

    def call(self, function: Callable[[Any], Any], argument: Any) -> asyncio.Future[Any]:
        """Calls `function(argument)` in a thread; the future has its result, or raises what it raised.

        What is no Exception, or is a StopIteration, which no future can carry, comes as a RuntimeError: a model that
        meant to end itself ends neither the thread nor the event loop.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._idle:
            self._idle -= 1
        else:
            self._threads += 1
            threading.Thread(target=self._work, args=(self._jobs,), name=self._name, daemon=True).start()
        self._jobs.put((future, function, argument))
        return future

    def close(self) -> None:
        """Ends the threads, those that are busy after their call. Calls may follow; new threads take them."""
        for _ in range(self._threads):
            self._jobs.put(None)
        self._jobs = SimpleQueue()
        self._threads = self._idle = 0

    def _work(self, jobs: SimpleQueue[_Job | None]) -> None:
        while (job := jobs.get()) is not None:
            future, function, argument = job
            result, error = None, None
            try:
                result = function(argument)
            except BaseException as raised:
                error = _carriable(raised)
            try:
                future.get_loop().call_soon_threadsafe(self._settle, jobs, future, result, error)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more
            del job, future, argument, result, error  # what a model was given and gave lives no longer than its call

    def _settle(
        self, jobs: SimpleQueue[_Job | None], future: asyncio.Future[Any], result: Any, error: Exception | None
    ) -> None:
        if jobs is self._jobs:
            self._idle += 1
        if future.done():
            return  # cancelled meanwhile
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def _carriable(raised: BaseException) -> Exception:
    if isinstance(raised, Exception) and not isinstance(raised, StopIteration):
        return raised
    error = RuntimeError(f"{type(raised).__name__}: {raised}")
    error.__cause__ = raised
    return error
