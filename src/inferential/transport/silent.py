"""Connections that have asked for nothing yet, of all that listens in this process: one gives way where room is needed.

File descriptors are the process's, so a page or a gateway whose connections say nothing could keep out robots of
another port. `transport.acceptance` has those of the robots' port in tables of its own, which come first there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

SETTLED_S = 1.0
"""A connection of this age that never asked may be closed for a newer one: a robot asks within this time."""


class Silent:
    """Connections that have asked for nothing yet, the oldest first; used on one event loop."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[float, Callable[[], object]]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def note(self, connection: Hashable, end: Callable[[], object]) -> None:
        """Notes a new connection, and what ends it, by the next turn of the loop."""
        self._known[connection] = time.monotonic(), end

    def forget(self, connection: Hashable) -> None:
        """Forgets a connection that has asked, or ended; it need not be known."""
        self._known.pop(connection, None)

    def end_one(self) -> bool:
        """Ends the oldest, if it was silent for longer than a robot is; False: there is none."""
        oldest = next(iter(self._known.items()), None)
        if oldest is None or oldest[1][0] > time.monotonic() - SETTLED_S:
            return False
        del self._known[oldest[0]]
        oldest[1][1]()
        return True


SILENT = Silent()
"""Of this process, as its descriptors are."""
