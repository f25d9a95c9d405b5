"""Waiting requests counted by source, so that a full queue can drop one of the source that has most waiting.

A source is a connection, by its number, however many client ids it uses; or a client where a request came by none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from inferential.scheduler.request import InferenceRequest

Source = int | str


class Backlog:
    """Waiting requests by source, and sources by how many they have waiting.

    Every operation takes constant time, whatever waits: sources move between neighbouring counts only.
    """

    __slots__ = ("_by_count", "_by_source", "_most")

    def __init__(self) -> None:
        self._by_source: dict[Source, OrderedDict[InferenceRequest, None]] = {}
        self._by_count: dict[int, OrderedDict[Source, None]] = {}
        self._most = 0

    def __bool__(self) -> bool:
        return bool(self._by_source)

    def __contains__(self, source: Source) -> bool:
        return source in self._by_source

    def add(self, request: InferenceRequest) -> None:
        """Adds a waiting request."""
        source = request.connection or request.client_id
        requests = self._by_source.get(source)
        if requests is None:
            requests = self._by_source[source] = OrderedDict()
        requests[request] = None
        self._move(source, len(requests) - 1, len(requests))

    def discard_all(self, requests: Iterable[InferenceRequest]) -> bool:
        """Removes requests that wait no more; returns whether any other waits."""
        by_source, by_count = self._by_source, self._by_count
        for request in requests:
            source = request.connection or request.client_id
            of_source = by_source[source]
            if (count := len(of_source)) == 1:
                del by_source[source], by_count[1][source]
            else:
                del of_source[request]
                self._move(source, count, count - 1)
        if not by_count.get(1, True):
            del by_count[1]
            if self._most == 1:
                self._most = 0
        return bool(by_source)

    def of(self, source: Source) -> list[InferenceRequest]:
        """Returns a source's waiting requests, oldest first."""
        return list(self._by_source.get(source, ()))

    def count(self, source: Source) -> int:
        """Returns how many requests of a source wait."""
        return len(self._by_source.get(source, ()))

    def victim(self) -> InferenceRequest:
        """Returns the oldest request of the source that has most waiting; of equals, of the one longest at that count.

        Raises:
            IndexError: nothing waits.
        """
        if not self._by_source:
            raise IndexError("nothing waits")
        source = next(iter(self._by_count[self._most]))
        return next(iter(self._by_source[source]))

    def _move(self, source: Source, before: int, after: int) -> None:
        if before:
            sources = self._by_count[before]
            del sources[source]
            if not sources:
                del self._by_count[before]
        if after:
            if after not in self._by_count:
                self._by_count[after] = OrderedDict()
            self._by_count[after][source] = None
        if after > self._most:
            self._most = after
        elif self._most not in self._by_count:
            self._most = after  # counts change by one, so the source that left the top is now the top
