"""Which coroutine functions never wait.

One that has no `await` in it is done by its first step: nothing can be gained by making a task of it.
"""

from __future__ import annotations

import dis
import functools
import inspect
from typing import Any

# What `await`, `async with` and `async for` are made of, of which each coroutine that waits has one.
_WAITS = frozenset({"GET_AWAITABLE", "GET_AITER", "GET_ANEXT", "SEND", "YIELD_VALUE"})


def never_waits(function: Any) -> bool:
    """Whether it is a coroutine function that awaits nothing, as far as its bytecode shows."""
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = getattr(function, "__call__", None)  # noqa: B004 (the method itself, not its presence)
    code = getattr(function, "__code__", None)  # a method has that of its function
    if not inspect.iscode(code) or not code.co_flags & inspect.CO_COROUTINE:
        return False
    return all(instruction.opname not in _WAITS for instruction in dis.get_instructions(code))
