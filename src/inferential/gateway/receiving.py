"""Bounds what the clients of a gateway have sent of requests that are not whole yet."""

from __future__ import annotations

from collections.abc import Callable, Hashable

RECEIVE_S = 30.0
"""How long all of a request may take to arrive."""
MAX_BYTES = 256 * 1024 * 1024
"""Of the clients of one gateway together; where one request alone may be larger, of that size."""


class Receiving:
    """The requests that arrive: where they are too much together, the largest of them ends.

    Args:
        largest: the bytes that one request may have.
    """

    def __init__(self, largest: int) -> None:
        self._most = max(MAX_BYTES, largest)
        self._sizes: dict[Hashable, int] = {}
        self._ends: dict[Hashable, Callable[[], object]] = {}
        self.used: int = 0
        """Bytes of all of them."""

    def note(self, who: Hashable, size: int, end: Callable[[], object]) -> None:
        """Notes how many bytes of a request are there, and what ends it."""
        self.used += size - self._sizes.get(who, 0)
        self._sizes[who], self._ends[who] = size, end
        while self.used > self._most:
            largest = max(self._sizes, key=self._sizes.__getitem__)
            end_largest = self._ends[largest]
            self.done(largest)
            end_largest()

    def done(self, who: Hashable) -> None:
        """Notes that a request is whole, or has ended; does nothing where none is known."""
        self.used -= self._sizes.pop(who, 0)
        self._ends.pop(who, None)
