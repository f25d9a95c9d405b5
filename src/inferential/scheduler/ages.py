"""Waiting requests by age, of which anything can be taken out; it has no clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from inferential.scheduler.heap import LazyHeap
from inferential.scheduler.request import InferenceRequest


class Ages:
    """Requests, the oldest first, equals in order of arrival; each is in it at most once.

    Nearly all come in that order, and stand in a list as they came: it costs less than a heap. Those that do not, as
    one that is tried again, are in a heap beside it.
    """

    __slots__ = ("_in_order", "_newest", "_others")

    def __init__(self) -> None:
        self._in_order: OrderedDict[InferenceRequest, float] = OrderedDict()  # since when each counts
        self._newest = (0.0, 0)  # of those in order, also where it is gone
        self._others: LazyHeap[InferenceRequest] = LazyHeap()

    def __len__(self) -> int:
        return len(self._in_order) + len(self._others)

    def __contains__(self, request: object) -> bool:
        return request in self._in_order or request in self._others

    def __iter__(self) -> Iterator[InferenceRequest]:
        """Yields the requests, in no order."""
        yield from self._in_order
        yield from self._others

    def push(self, request: InferenceRequest, since: float) -> None:
        """Adds a request that counts as waiting since then. Raises ValueError if it is in it."""
        if request in self._in_order or request in self._others:
            raise ValueError(f"already queued: {request!r}")
        key = since, request.arrival
        if key > self._newest or not self._in_order:
            self._in_order[request] = since
            self._newest = key
        else:
            self._others.push(request, *key)

    def discard(self, request: InferenceRequest) -> bool:
        """Removes a request, wherever it stands; returns False if it is not in."""
        return self._in_order.pop(request, None) is not None or self._others.discard(request)

    def discard_all(self, requests: Iterable[InferenceRequest]) -> None:
        """Removes the requests that are in."""
        pop, others = self._in_order.pop, self._others
        for request in requests:
            if pop(request, None) is None:
                others.discard(request)

    def top(self) -> tuple[float, InferenceRequest]:
        """Returns since when the oldest counts, and the request, which stays. Raises IndexError if there is none."""
        if not self._others:
            if not self._in_order:
                raise IndexError("nothing waits")
            request = next(iter(self._in_order))
            return self._in_order[request], request
        since, other = self._others.top()
        if self._in_order:
            request = next(iter(self._in_order))
            if (self._in_order[request], request.arrival) < (since, other.arrival):
                return self._in_order[request], request
        return since, other
