"""Calls a model's methods from the thread of a worker that takes calls, sync ones and coroutines."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

from inferential.replica.model import Method

if TYPE_CHECKING:
    import asyncio

_PLAIN = (np.ndarray, dict, list)  # what most models return, and no awaitable


class MethodCaller:
    """Calls methods; coroutines run on an event loop of its own."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def call(self, method: Method, argument: Any) -> Any:
        """Returns what a method returns, awaited where it has to be; raises what it raises."""
        result = method(argument)
        if type(result) not in _PLAIN and inspect.isawaitable(result):
            if self._loop is None:
                import asyncio  # half of a worker's own memory, and most models have no coroutines

                self._loop = asyncio.new_event_loop()
            return self._loop.run_until_complete(_awaited(result))
        return result


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
