"""Which coroutine functions never wait, and how what never waits is run without a task.

One that has no `await` in it is done by its first step: nothing can be gained by making a task of it.
"""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections.abc import Coroutine, Generator
from typing import Any

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


def start_inline(coroutine: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None] | None:
    """Runs a coroutine up to where it waits; gives the rest of it, None where it never did.

    Raises:
        BaseException: what the coroutine raised.
    """
    try:
        waits_for = coroutine.send(None)
    except StopIteration:
        return None
    return _finish(coroutine, waits_for)


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
