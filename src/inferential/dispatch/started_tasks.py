"""Tasks that models start on the event loop: `sys.exit` in one ends that task, and not the server.

asyncio ends the whole event loop by a SystemExit of any task, also of one that nothing awaits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any

from inferential.dispatch.raised import failure_of
from inferential.errors import place_of

logger: logging.Logger = logging.getLogger("inferential.dispatch")

IN_CALL: ContextVar[bool] = ContextVar("inferential_in_call", default=False)
"""Whether what runs is a model's call, or a task that began in one."""


def contain(loop: asyncio.AbstractEventLoop) -> None:
    """Has each task that begins where `IN_CALL` is set end alone; all others stay as they are."""
    former = loop.get_task_factory()
    if isinstance(former, _Tasks):
        return
    loop.set_task_factory(_Tasks(former))


class _Tasks:
    """Makes the tasks of an event loop, by what made them before."""

    def __init__(self, former: Any) -> None:
        self._former = former

    def __call__(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        if IN_CALL.get():
            coroutine = _contained(coroutine)
        if self._former is not None:
            return self._former(loop, coroutine, **options)
        return asyncio.Task(coroutine, loop=loop, **options)


async def _contained(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        failure = failure_of(error)  # raises a Ctrl-C
        logger.error("a task that a model started ends: it called sys.exit%s", place_of(error))
        raise failure from error
