"""Handles Ctrl-C: the first drains the server and says so, the second ends the process at once.

The server itself knows how to drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from inferential.cli.output import announce

INTERRUPTED = 130
"""Exit code of a process that was interrupted."""


class EndedBeforeTheLoop(SystemExit):
    """SIGTERM came while models were imported."""


class Interrupts:
    """Counts interrupts.

    Args:
        stop: makes the server drain and end.
        now: returns what it does for that, in words; called after `stop`.
        end: ends the process, with an exit code.
    """

    def __init__(
        self, stop: Callable[[], None], now: Callable[[], str], end: Callable[[int], object] = os._exit
    ) -> None:
        self._stop = stop
        self._now = now
        self._end = end
        self._came = False

    def handle(self) -> None:
        """Handles interrupts while the event loop runs, if this is the main thread and the platform can."""
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self)

    def __call__(self) -> None:
        """Handles one more interrupt."""
        if self._came:
            # An orderly end would wait: for a model's call, a collector that is away, replicas.
            self._end(INTERRUPTED)
            return
        self._came = True
        self._stop()
        announce(f"{self._now()}; Ctrl-C again ends it at once")


@contextlib.contextmanager
def signals_before_the_loop() -> Iterator[None]:
    """Makes SIGTERM end the process while models are imported, also that of number 1, and SIGHUP do nothing.

    The system ignores signals to a container's first process for which it has no handler. The server's own handlers
    take their place.
    """
    handlers: dict[int, Any] = {signal.SIGTERM: _end_before_the_loop}
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handlers[signal.SIGHUP] = lambda number, frame: None
    before: dict[int, Any] = {}
    try:
        with contextlib.suppress(ValueError):  # this is not the main thread
            before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_before_the_loop(number: int, frame: FrameType | None) -> None:
    raise EndedBeforeTheLoop(0)


def draining(timeout_s: float) -> str:
    """Returns what a server does once it was asked to stop."""
    return f"draining, for {timeout_s:g} s at most"
