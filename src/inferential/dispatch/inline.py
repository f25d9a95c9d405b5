"""Which coroutine functions never wait, and how what never waits is run without a task.

One that has no `await` in it is done by its first step: nothing can be gained by making a task of it.
"""

from __future__ import annotations

import asyncio
import dis
import functools
import inspect
import types
from collections.abc import Coroutine, Generator
from contextvars import copy_context
from typing import Any

from inferential.replica.pending import Pending

# What `await`, `async with` and `async for` are made of, of which each coroutine that waits has one.
_WAITS = frozenset({"GET_AWAITABLE", "GET_AITER", "GET_ANEXT", "SEND", "YIELD_VALUE"})
_COROUTINE = "RETURN_GENERATOR"  # which each has: compiled ones have no bytecode to judge by


def completes_inline(function: Any) -> bool:
    """Whether it is a coroutine function that awaits nothing, as far as its bytecode shows."""
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = getattr(type(function), "__call__", None)  # noqa: B004 (the method itself, not its presence)
    code = getattr(function, "__code__", None)  # a method has that of its function
    if not inspect.iscode(code) or not code.co_flags & inspect.CO_COROUTINE:
        return False
    names = {instruction.opname for instruction in dis.get_instructions(code)}
    return _COROUTINE in names and names.isdisjoint(_WAITS)


def start_inline(
    coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop
) -> asyncio.Task[None] | Resumed | None:
    """Runs a coroutine up to where it waits; returns what runs the rest of it, None where it never waits.

    It must be called on `loop`, within the context that the rest is to have.

    Raises:
        BaseException: what the coroutine raised.
    """
    try:
        waits_for = coroutine.send(None)
    except StopIteration:
        return None
    if type(waits_for) is Pending and waits_for.get_loop() is loop:
        return Resumed(coroutine, waits_for)
    return loop.create_task(_finish(coroutine, waits_for))


class Resumed:
    """A coroutine that waits for the answer of another process, and goes on where that is read.

    That spares a task and a turn of the event loop, which cost as much as the hand-over itself. Once it waits for
    anything else, it is a task.

    Args:
        coroutine: what has begun.
        waits_for: what it waits for.
    """

    __slots__ = ("_context", "_coroutine", "_ended", "_task", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, None], waits_for: Pending[Any]) -> None:
        self._coroutine = coroutine
        self._context = copy_context()
        self._ended: asyncio.Future[None] | None = None  # once it is cancelled
        self._task: asyncio.Task[None] | None = None
        self._wait(waits_for)

    def cancel(self) -> asyncio.Future[None]:
        """Cancels it; returns what to await for its end."""
        if self._task is not None:
            self._task.cancel()
            return self._task
        if self._ended is None:
            self._ended = self._waits_for.get_loop().create_future()
            self._waits_for.cancel()
        return self._ended

    def _wait(self, waits_for: Pending[Any]) -> None:
        self._waits_for = waits_for
        waits_for.add_done_callback(self._resume, context=self._context)
        if self._ended is not None:  # it was cancelled when the former wait was over already
            waits_for.cancel()

    def _resume(self, pending: Pending[Any]) -> None:
        loop = pending.get_loop()
        try:
            waits_for = self._coroutine.send(None)
        except (StopIteration, asyncio.CancelledError):
            self._end()
        except (KeyboardInterrupt, SystemExit):
            self._end()
            raise
        except BaseException as error:
            loop.call_exception_handler({"message": "a model's call ended with an error", "exception": error})
            self._end()
        else:
            if type(waits_for) is Pending and waits_for.get_loop() is loop:
                self._wait(waits_for)
            else:
                self._task = loop.create_task(_finish(self._coroutine, waits_for))
                self._task.add_done_callback(lambda _: self._end())
                if self._ended is not None:
                    self._task.cancel()

    def _end(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)


async def _finish(coroutine: Coroutine[Any, Any, None], waits_for: Any) -> None:
    await _rest(coroutine, waits_for)


@types.coroutine
def _rest(coroutine: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """What is left of a coroutine that waits for something by now."""
    try:
        while True:
            try:
                sent = yield waits_for
            except BaseException as error:
                waits_for = coroutine.throw(error)
            else:
                waits_for = coroutine.send(sent)
    except StopIteration:
        return
