"""What models start on the event loop, tasks and callbacks: `sys.exit` in one ends that alone, and not the server.

asyncio ends the whole event loop by a SystemExit of any task or callback, also of a task that nothing awaits.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any

from inferential.dispatch.raised import failure_of
from inferential.errors import place_of
from inferential.notices import Notices

logger: logging.Logger = logging.getLogger("inferential.dispatch")

IN_CALL: ContextVar[str] = ContextVar("inferential_in_call", default="")
"""The id of the model whose call runs, or in whose call began what runs; "" where there is none."""


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
        if model_id := IN_CALL.get():
            coroutine = _contained(model_id, coroutine)
        if self._former is not None:
            return self._former(loop, coroutine, **options)
        return asyncio.Task(coroutine, loop=loop, **options)


async def _contained(model_id: str, coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        failure = failure_of(error)  # raises a Ctrl-C
        logger.error("model %s: a task that it started ends: it called sys.exit%s", model_id, place_of(error))
        raise failure from error


def run_contained(main: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine as `asyncio.run` does, but goes on where a callback of a model's call (`call_soon`) ends it.

    The event loop has no other place where that can be caught: a callback is not made by a factory, as a task is.
    """
    notices = Notices(logger)
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(main)
        while True:
            try:
                return loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt) as error:
                model_id = _model_behind(error)
                if not model_id or task.done():
                    raise
                failure_of(error)  # raises a Ctrl-C
                place = place_of(error)
                text = "model %s: a callback that it left on the event loop ends: it called sys.exit%s"
                notices.say((model_id, place), text, model_id, place, level=logging.ERROR)


def _model_behind(error: BaseException) -> str:
    """Returns the model in whose call the callback was left that raised; "" where there is none."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        handle = frame.f_locals.get("self")
        if isinstance(handle, asyncio.Handle):
            context = getattr(handle, "_context", None)  # Python 3.12 has get_context
            return "" if context is None else str(context.get(IN_CALL, ""))
    return ""
