"""What a model raised, as a failure of its call alone: it ends neither the thread nor the event loop that it ran in."""

from __future__ import annotations

import asyncio
import signal
import threading

from inferential.errors import Carried, words_of


def carriable(raised: BaseException) -> Exception:
    """Returns what a model raised as an exception that a future can carry."""
    if isinstance(raised, Exception) and not isinstance(raised, StopIteration):
        return raised
    error = Carried(words_of(raised))
    error.__cause__ = raised
    return error


def failure_of(raised: BaseException) -> Exception:
    """Returns what a model raised on the event loop as a failure of its call.

    Raises:
        BaseException: it was not the model that raised it: the call is cancelled, or Ctrl-C was pressed.
    """
    if _cancels_the_call(raised) or (isinstance(raised, KeyboardInterrupt) and _is_of_user(raised)):
        raise raised
    return carriable(raised)


def _cancels_the_call(raised: BaseException) -> bool:
    """Returns whether the call itself is cancelled, and not something that the model awaits."""
    if not isinstance(raised, asyncio.CancelledError):
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _is_of_user(raised: KeyboardInterrupt) -> bool:
    """Returns whether it may be a Ctrl-C that reached the model's code.

    `Server.run` and `asyncio.run` handle SIGINT themselves, the latter for the first time.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        return True
    trace = raised.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename == asyncio.runners.__file__
