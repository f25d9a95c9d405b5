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


_YOUNG, _YOUNG_ROUNDS = 2_000, 25
"""Objects and rounds after which Python collects the young, and the middle generation: so late that most requests have
ended by then, and few become old. With 1,000 robots each collection of the old takes 30 ms, a third as often so."""


@contextlib.contextmanager
def frozen_garbage() -> Iterator[None]:
    """Excludes what exists now, modules and models, from garbage collection, and has that come later.

    Traversing it takes tens of milliseconds now and then, during which no robot is served.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(max(_YOUNG, before[0]) if before[0] else 0, max(_YOUNG_ROUNDS, before[1]), before[2])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
