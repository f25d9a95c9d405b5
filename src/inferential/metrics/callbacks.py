"""Users' functions that are called for every recorded metric; an exception in one never reaches the server."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import get_ident

logger: logging.Logger = logging.getLogger("inferential.metrics")

MetricCallback = Callable[[str, float, dict[str, str]], None]
"""Called with name, value and labels (a copy)."""


def check_callback(what: str, callback: Callable[..., object]) -> None:
    """Checks that a callback is a plain function; `what` names the event in the error.

    Raises:
        TypeError: it is a coroutine function; callbacks are called, not awaited.
    """
    if inspect.iscoroutinefunction(callback):
        raise TypeError(f"{what} callback {callback!r}: it is called, not awaited; give a plain function")


@dataclass(slots=True, eq=False)
class _Registered:
    call: MetricCallback
    failed: bool = False
    running_in: set[int] = field(default_factory=set)  # threads


class CallbackRegistry:
    """Callbacks, in the order they were registered."""

    def __init__(self) -> None:
        self._callbacks: list[_Registered] = []

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def register(self, callback: MetricCallback) -> None:
        """Adds a callback.

        Raises:
            TypeError: it is a coroutine function; callbacks are called, not awaited.
        """
        check_callback("metric", callback)
        self._callbacks.append(_Registered(callback))

    def fire(self, name: str, value: float, labels: dict[str, str]) -> None:
        """Calls every callback. The first exception of each is logged; it is called again next time.

        A callback is not called for what is recorded while it runs: one that records would never end.
        """
        thread = get_ident()
        for registered in self._callbacks:
            if thread in registered.running_in:
                continue
            registered.running_in.add(thread)
            try:
                registered.call(name, value, dict(labels))
            except Exception:
                if not registered.failed:
                    registered.failed = True
                    logger.exception(
                        "metric callback %r failed on %s; further failures are not logged", registered.call, name
                    )
            finally:
                registered.running_in.discard(thread)
