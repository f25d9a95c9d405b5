"""Users' functions that the server calls when something happened."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVarTuple, Unpack

from inferential.metrics.callbacks import check_callback
from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.running import Batch

logger: logging.Logger = logging.getLogger("inferential")

RequestCallback = Callable[[InferenceRequest], None]
"""Called with a request that has just ended: `state`, `refusal`, `received_at` and `dispatched_at` tell how."""

BatchCallback = Callable[[Batch, float], None]
"""Called with a model call that has ended and the time of its end, in seconds of `time.monotonic()`. Each of its
requests has been answered or refused by then, or is queued again."""

Args = TypeVarTuple("Args")


class Callbacks(Generic[*Args]):
    """Holds callbacks of one kind and calls them; an exception in one never reaches the server.

    Args:
        what: the kind of event, as the log names it.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._callbacks: list[Callable[[Unpack[Args]], None]] = []
        self._failed: set[int] = set()  # by id(): a callable may be unhashable; none is dropped before this object is

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def register(self, callback: Callable[[Unpack[Args]], None]) -> None:
        """Adds a callback.

        Raises:
            TypeError: it is a coroutine function; callbacks are called, not awaited.
        """
        check_callback(self._what, callback)
        self._callbacks.append(callback)

    def fire(self, *args: *Args) -> None:
        """Calls every callback. The first exception of each is logged; it is called again next time."""
        for callback in self._callbacks:
            try:
                callback(*args)
            except Exception:
                if id(callback) not in self._failed:
                    self._failed.add(id(callback))
                    logger.exception("%s callback %r failed; further failures are not logged", self._what, callback)
