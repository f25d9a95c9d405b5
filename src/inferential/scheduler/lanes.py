"""A lane: the requests that wait for one model, in the order a strategy wants. Here are the two plain orders.

Orders that change with time are in `kinetic_heap`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable

from inferential.scheduler.heap import LazyHeap
from inferential.scheduler.request import InferenceRequest


class Lane(ABC):
    """The requests that wait for one model, each once. Only `take` may cost more than amortised O(log n)."""

    __slots__ = ()

    @abstractmethod
    def __len__(self) -> int:
        """Returns how many requests wait."""

    @abstractmethod
    def push(self, request: InferenceRequest, now: float) -> None:
        """Adds a request."""

    @abstractmethod
    def discard(self, request: InferenceRequest) -> None:
        """Removes a request that waits in it."""

    @abstractmethod
    def take(self, limit: int, now: float) -> list[InferenceRequest]:
        """Removes and returns up to `limit` requests, first to be served first."""

    def ready_at(self, now: float) -> float:
        """Returns from when on `take` returns something, of a lane that is not empty; -inf: now."""
        return -math.inf


class OrderedLane(Lane):
    """Serves the smallest key first; the key of a request is computed when it comes in."""

    __slots__ = ("_heap", "_key")

    def __init__(self, key: Callable[[InferenceRequest], tuple[float, ...]]) -> None:
        self._key = key
        self._heap: LazyHeap[InferenceRequest] = LazyHeap()

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, request: InferenceRequest, now: float) -> None:
        self._heap.push(request, *self._key(request))

    def discard(self, request: InferenceRequest) -> None:
        self._heap.discard(request)

    def first(self) -> InferenceRequest:
        """Returns the next to be served, which stays. Raises IndexError if the lane is empty."""
        return self._heap.top()[1]

    def take(self, limit: int, now: float) -> list[InferenceRequest]:
        return [self._heap.pop() for _ in range(min(limit, len(self._heap)))]


# Empty places that a ring may always hold, so that small rings are not rebuilt at every other removal.
_SLACK = 32


class RotationLane(Lane):
    """Serves one request of each client in turn, each client's own in the order they came in.

    A client enters the ring at its end, is served when it comes to the front, and goes to the end again or, with
    nothing left, out. If its requests go without being served (a newer observation takes an older one's place), its
    place stays, empty, until it comes to the front or until most of the ring is empty places. So a client that asks
    again and again neither gains nor loses a turn by it, and the ring does not grow with clients that
    came and went. Every operation is amortised O(1).
    """

    __slots__ = ("_empty", "_ring", "_size")

    def __init__(self) -> None:
        self._ring: OrderedDict[str, OrderedDict[InferenceRequest, None]] = OrderedDict()
        self._empty = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, request: InferenceRequest, now: float) -> None:
        queue = self._ring.get(request.client_id)
        if queue is None:
            queue = self._ring[request.client_id] = OrderedDict()
        elif not queue:
            self._empty -= 1
        queue[request] = None
        self._size += 1

    def discard(self, request: InferenceRequest) -> None:
        queue = self._ring[request.client_id]
        del queue[request]
        self._size -= 1
        if queue:
            return
        self._empty += 1
        if 2 * self._empty > len(self._ring) + _SLACK:
            self._ring = OrderedDict((client_id, queue) for client_id, queue in self._ring.items() if queue)
            self._empty = 0

    def take(self, limit: int, now: float) -> list[InferenceRequest]:
        return [self._next() for _ in range(min(limit, self._size))]

    def places(self) -> int:
        """Returns the size in memory: clients in the ring, empty places included."""
        return len(self._ring)

    def _next(self) -> InferenceRequest:
        client_id, queue = self._ring.popitem(last=False)
        while not queue:
            self._empty -= 1
            client_id, queue = self._ring.popitem(last=False)
        request, _ = queue.popitem(last=False)
        self._size -= 1
        if queue:
            self._ring[client_id] = queue
        return request
