"""Queues whose next requests the strategy does not see for a while: they wait for the end of one, or for their pace."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

_MAX_HOLDS = 4096  # before those that are over are looked for


class Holds(Generic[Key]):
    """Until when each queue is held back; times are those of `time.monotonic()`, in seconds.

    Its tables stay the same objects, so that a caller may keep them to look at.
    """

    __slots__ = ("not_before", "queue", "running")

    def __init__(self) -> None:
        self.not_before: dict[Key, float] = {}
        """By queue; infinity: until `end`. Some may be over."""
        self.running: dict[Key, object] = {}
        """By queue, what its next request waits for the end of."""
        self.queue: list[tuple[float, Key]] = []
        """A heap of the queues that have requests which were stopped, by when these go on."""

    def until(self, key: Key) -> float:
        """Returns until when a queue is held back; minus infinity where it is not."""
        return self.not_before.get(key, -math.inf)

    def begin_call(self, key: Key, call: object) -> None:
        """Holds a queue back until `end`, of the same call."""
        self.not_before[key] = math.inf
        self.running[key] = call

    def begin(self, key: Key, until: float, now: float) -> None:
        """Holds a queue back until then."""
        if len(self.not_before) >= _MAX_HOLDS:
            self._drop(lambda at: at <= now)
        self.not_before[key] = until

    def end(self, key: Key, call: object) -> bool:
        """Holds a queue back no longer, if it was for this call; returns whether it was."""
        if self.running.get(key) is not call:
            return False
        del self.running[key], self.not_before[key]
        return True

    def stops(self, key: Key, now: float) -> bool:
        """Returns whether the next request of a queue has to wait, and notes until when it has."""
        at = self.not_before.get(key)
        if at is None:
            return False
        if at <= now:
            del self.not_before[key]
            return False
        if at < math.inf:
            heapq.heappush(self.queue, (at, key))
        return True

    def due(self, now: float) -> Iterator[Key]:
        """Yields the queues whose stopped requests may go on; what is stopped meanwhile is looked at as well."""
        while self.queue and self.queue[0][0] <= now:
            yield heapq.heappop(self.queue)[1]

    def keep_endless(self) -> None:
        """Forgets all but the holds that `end` ends."""
        self._drop(lambda at: at < math.inf)
        self.queue.clear()

    def _drop(self, is_over: Callable[[float], bool]) -> None:
        for key in [key for key, at in self.not_before.items() if is_over(at)]:
            del self.not_before[key]
