"""What the server changes in its process while it runs: signal handlers and the garbage collector."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import Awaitable, Callable, Iterator


@contextlib.contextmanager
def stop_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` on SIGINT and SIGTERM, if this is the main thread and the platform can."""
    loop = asyncio.get_running_loop()
    installed = []
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, stop)
            installed.append(number)
    try:
        yield
    finally:
        for number in installed:
            loop.remove_signal_handler(number)


class Endable:
    """Work that `end` ends before it is done."""

    def __init__(self) -> None:
        self._scope: asyncio.Timeout | None = None

    async def run(self, work: Awaitable[object]) -> bool:
        """Awaits work; returns whether it was done."""
        try:
            async with asyncio.timeout(None) as self._scope:
                await work
        except TimeoutError:
            if self._scope is None or not self._scope.expired():
                raise  # of the work's own
            return False
        finally:
            self._scope = None
        return True

    def end(self) -> None:
        """Ends the work that is awaited now; does nothing where there is none."""
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())


@contextlib.contextmanager
def frozen_garbage() -> Iterator[None]:
    """Excludes what exists now, modules and models, from garbage collection.

    Traversing it takes tens of milliseconds now and then, during which no robot is served.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
