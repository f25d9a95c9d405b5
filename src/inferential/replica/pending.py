"""What a call that was sent to another process is awaited by.

An `asyncio.Future` wakes its task in the next turn of the event loop. This one wakes it where the answer is read, which
saves a turn: of a short call a good part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Pending(Generic[T]):
    """The result to come of a call; to be awaited by one task.

    It is a future to asyncio by its protocol (`asyncio.isfuture`), as those of other libraries are.
    """

    __slots__ = ("_asyncio_future_blocking", "_done", "_error", "_loop", "_result", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self._done = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._waiter: tuple[Callable[[Any], object], Context | None] | None = None

    def done(self) -> bool:
        """Returns whether there is a result, an error, or no one who waits."""
        return self._done

    def set_result(self, result: T) -> None:
        """Sets the result and runs the waiting task up to where it waits again."""
        self._result = result
        self._finish()

    def set_exception(self, error: BaseException) -> None:
        """Sets an error and runs the waiting task up to where it waits again."""
        self._error = error
        self._finish()

    def _finish(self) -> None:
        self._done = True
        waiter, self._waiter = self._waiter, None
        if waiter is None:
            return
        wake, context = waiter
        if asyncio.current_task(self._loop) is not None:  # a task cannot run within another one
            self._loop.call_soon(wake, self, context=context)
        elif context is None:
            wake(self)
        else:
            context.run(wake, self)

    # What asyncio's tasks ask of a future

    def __await__(self) -> Generator[Any, None, T]:
        if not self._done:
            self._asyncio_future_blocking = True
            yield self
        return self.result()

    def result(self) -> T:
        """Returns the result, or raises the error."""
        if self._error is not None:
            raise self._error
        result: T = self._result
        return result

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Returns the event loop that it belongs to."""
        return self._loop

    def add_done_callback(self, wake: Callable[[Any], object], *, context: Context | None = None) -> None:
        """Sets what is called at the end."""
        if self._done:
            self._loop.call_soon(wake, self, context=context)
        else:
            self._waiter = wake, context

    def cancel(self, msg: Any = None) -> bool:
        """Ends the wait, in the loop's next turn; returns False where it has ended."""
        if self._done:
            return False
        self._error = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        self._done = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._loop.call_soon(waiter[0], self, context=waiter[1])
        return True
