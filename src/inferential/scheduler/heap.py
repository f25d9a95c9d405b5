"""A priority queue from which anything can be taken out, not only the first.

Keys are its caller's; it has no clock.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=Hashable)

# Dead entries that are always tolerated, so that small heaps are not rebuilt at every other removal.
_SLACK = 32

# Makes entries of equal keys differ, so that items themselves are never compared.
_serials = itertools.count()


class LazyHeap(Generic[T]):
    """Items in order of their keys, smallest first; each item is in it at most once.

    An item that is removed from the middle leaves a dead entry, which goes when it comes to the top. When more than
    half of the entries are dead, the heap is rebuilt of the others. So every operation takes amortised O(log n) and
    the memory stays within twice what the items need.
    """

    __slots__ = ("_entries", "_heap")

    def __init__(self) -> None:
        # An entry is [*key, serial, item]; a dead one has None for its item.
        self._heap: list[list[Any]] = []
        self._entries: dict[T, list[Any]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: object) -> bool:
        return item in self._entries

    def __iter__(self) -> Iterator[T]:
        """Yields the items in the order they were put in."""
        return iter(self._entries)

    def push(self, item: T, *key: float) -> None:
        """Adds an item; the keys of one heap have one length. Raises ValueError if the item is in it."""
        if item in self._entries:
            raise ValueError(f"already queued: {item!r}")
        entry = [*key, next(_serials), item]
        self._entries[item] = entry
        heapq.heappush(self._heap, entry)

    def discard(self, item: T) -> bool:
        """Removes an item, wherever it stands; returns False if it is not in."""
        entry = self._entries.pop(item, None)
        if entry is None:
            return False
        entry[-1] = None
        if len(self._heap) > 2 * len(self._entries) + _SLACK:
            self._rebuild()
        return True

    def discard_all(self, items: Iterable[T]) -> None:
        """Removes the items that are in."""
        entries = self._entries
        for item in items:
            if (entry := entries.pop(item, None)) is not None:
                entry[-1] = None
        if len(self._heap) > 2 * len(self._entries) + _SLACK:
            self._rebuild()

    def _rebuild(self) -> None:
        self._heap = list(self._entries.values())
        heapq.heapify(self._heap)

    def top(self) -> tuple[float, T]:
        """Returns the first part of the smallest key, and its item, which stays. Raises IndexError if empty."""
        heap = self._heap
        while heap[0][-1] is None:
            heapq.heappop(heap)
        entry = heap[0]
        return entry[0], entry[-1]

    def pop(self) -> T:
        """Removes and returns the item with the smallest key. Raises IndexError if empty."""
        _, item = self.top()
        heapq.heappop(self._heap)
        del self._entries[item]
        return item

    def entries(self) -> int:
        """Returns the size in memory: live and dead entries."""
        return len(self._heap)
