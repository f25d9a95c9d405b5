"""Ends connections whose half-sent messages do not come on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from inferential.transport.budget import STALL_S, ByteBudget
from inferential.transport.connections import ClientConnection
from inferential.zmtp import ProtocolError


class StallWatch:
    """Looks from time to time, while any frame is half received.

    Args:
        budget: knows which frames are.
        end: ends a connection for a reason.
    """

    def __init__(self, budget: ByteBudget, end: Callable[[ClientConnection, ProtocolError], None]) -> None:
        self._budget = budget
        self._end = end
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Looks as long as there is something to look at."""
        if self._timer is None and self._budget.receiving:
            self._timer = loop.call_later(STALL_S, self._look, loop)

    def stop(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        for client in list(self._budget.stalled()):
            missing = client.stream.missing_bytes
            what = f"{missing} bytes of a frame" if missing else "the last frame of a message"
            self._end(client, ProtocolError(f"{what} did not come within {STALL_S:g} s"))
        self.start(loop)
