"""Ends a process that takes too much memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_EVERY_S = 0.1


class MemoryLimit:
    """Looks at a process's memory while it loads or runs calls: an idle one takes no more.

    Args:
        limit_mb: resident memory that it may take; None: any.
        used_mb: returns what it takes; None: it has ended.
        is_busy: returns whether it loads or runs calls.
        on_excess: called with what happened, in words.
    """

    def __init__(
        self,
        limit_mb: float | None,
        used_mb: Callable[[], float | None],
        is_busy: Callable[[], bool],
        on_excess: Callable[[str], None],
    ) -> None:
        self._limit_mb = limit_mb
        self._used_mb = used_mb
        self._is_busy = is_busy
        self._on_excess = on_excess
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Looks from now on, until the process is idle."""
        if self._limit_mb is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._look)

    def stop(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        used_mb = self._used_mb()
        if used_mb is None or self._limit_mb is None:
            return
        if used_mb > self._limit_mb:
            self._on_excess(f"its process took {used_mb:.0f} MB, memory_limit_mb is {self._limit_mb:g}")
        elif self._is_busy():
            self.watch()
