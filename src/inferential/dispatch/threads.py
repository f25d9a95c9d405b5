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


class _Job:
    """A call on its way to a thread and back."""

    __slots__ = ("_unclaimed", "argument", "ended", "error", "function", "future", "result")

    def __init__(self, future: Pending[Any], function: Callable[[Any], Any], argument: Any) -> None:
        self.future, self.function, self.argument = future, function, argument
        self.result: Any = None
        self.error: Exception | None = None
        self.ended: threading.Lock | None = None  # where the event loop waits for it: held until its end
        self._unclaimed = [None]

    def claim(self) -> bool:
        """Returns True to the first of the two threads that asks: the event loop's, and the one that runs the call."""
        try:
            self._unclaimed.pop()
        except IndexError:
            return False
        return True


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

    def call(self, function: Callable[[Any], Any], argument: Any, wait_s: float = 0.0) -> Pending[Any]:
        """Calls `function(argument)` in a thread; what is returned is awaited for its result or what it raised.

        With `wait_s` the event loop stands still for so many seconds at most, and what is returned is mostly done: a
        call that takes microseconds is over before the event loop could do anything else.

        What is no Exception, or is a StopIteration, which no future can carry, becomes a RuntimeError: a model that
        means to end itself ends neither the thread nor the event loop.
        """
        future: Pending[Any] = Pending(asyncio.get_running_loop())
        job = _Job(future, function, argument)
        if wait_s:
            job.ended = threading.Lock()
            job.ended.acquire()
        if self._idle:
            self._idle -= 1
        else:
            self._threads += 1
            threading.Thread(target=self._work, args=(self._jobs,), name=self._name, daemon=True).start()
        self._jobs.put(job)
        if job.ended is not None and self._has_ended(job.ended, job, wait_s):
            self._settle(self._jobs, job)
        return future

    @staticmethod
    def _has_ended(ended: threading.Lock, job: _Job, wait_s: float) -> bool:
        """Waits for the end of a call; returns False where its thread will say so later."""
        if not ended.acquire(timeout=wait_s):
            if job.claim():
                return False
            ended.acquire()  # it ended just now
        return True

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
            try:
                job.result = job.function(job.argument)
            except BaseException as raised:
                job.error = carriable(raised)
            if job.ended is not None and job.claim():
                job.ended.release()
            else:
                try:
                    job.future.get_loop().call_soon_threadsafe(self._settle, jobs, job)
                except RuntimeError:
                    return  # the loop is closed: nothing waits for results any more
            del job  # what a model was given and gave lives no longer than its call

    def _settle(self, jobs: SimpleQueue[_Job | None], job: _Job) -> None:
        if jobs is self._jobs:
            self._idle += 1
        future = job.future
        if future.done():  # cancelled, or given up
            if future in self._given_up:
                self._given_up.discard(future)
                self._on_return()
            return
        if job.error is None:
            future.set_result(job.result)
        else:
            future.set_exception(job.error)
