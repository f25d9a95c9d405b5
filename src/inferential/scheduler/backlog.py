"""Waiting requests counted by client, so that a full queue can drop one of the client that has most waiting."""

from __future__ import annotations

from collections import OrderedDict

from inferential.scheduler.request import InferenceRequest


class Backlog:
    """Waiting requests by client, and clients by how many they have waiting.

    Every operation takes constant time, whatever waits: clients move between neighbouring counts only.
    """

    __slots__ = ("_by_client", "_by_count", "_most")

    def __init__(self) -> None:
        self._by_client: dict[str, OrderedDict[InferenceRequest, None]] = {}
        self._by_count: dict[int, OrderedDict[str, None]] = {}
        self._most = 0

    def __bool__(self) -> bool:
        return bool(self._by_client)

    def add(self, request: InferenceRequest) -> None:
        """Adds a waiting request."""
        requests = self._by_client.setdefault(request.client_id, OrderedDict())
        requests[request] = None
        self._move(request.client_id, len(requests) - 1, len(requests))

    def discard(self, request: InferenceRequest) -> None:
        """Removes a request that waits no more."""
        requests = self._by_client[request.client_id]
        del requests[request]
        self._move(request.client_id, len(requests) + 1, len(requests))
        if not requests:
            del self._by_client[request.client_id]

    def of(self, client_id: str) -> list[InferenceRequest]:
        """Returns a client's waiting requests, oldest first."""
        return list(self._by_client.get(client_id, ()))

    def victim(self) -> InferenceRequest:
        """Returns the oldest request of the client that has most waiting; of equals, of the one longest at that count.

        Raises:
            IndexError: nothing waits.
        """
        if not self._by_client:
            raise IndexError("nothing waits")
        client_id = next(iter(self._by_count[self._most]))
        return next(iter(self._by_client[client_id]))

    def _move(self, client_id: str, before: int, after: int) -> None:
        if before:
            clients = self._by_count[before]
            del clients[client_id]
            if not clients:
                del self._by_count[before]
        if after:
            self._by_count.setdefault(after, OrderedDict())[client_id] = None
        if after > self._most:
            self._most = after
        elif self._most not in self._by_count:
            self._most = after  # counts change by one, so the client that left the top is now the top
