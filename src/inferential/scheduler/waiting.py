"""The tables of the waiting requests, and what can be asked of them; `client_queues` fills them."""

from __future__ import annotations

from collections.abc import Sequence, Sized

from inferential.scheduler.ages import Ages
from inferential.scheduler.backlog import Backlog
from inferential.scheduler.client_queue import ClientQueue, Key, key_of
from inferential.scheduler.request import InferenceRequest


class Waiting:
    """All waiting requests: by queue, pool, age, rank and source."""

    def __init__(self) -> None:
        self._client_queues: dict[Key, ClientQueue] = {}
        self._waiting: dict[str, int] = {}
        self._ages = Ages()
        self._backlogs: dict[int, Backlog] = {}
        self._stands: dict[InferenceRequest, tuple[int, ClientQueue]] = {}  # its rank, and the queue that it is in
        self._held_bytes = 0
        self.leaving: Sequence[InferenceRequest] = ()
        """Requests that a call took at `_left_at`, and that are in the tables until `ClientQueues.settle`."""
        self._left_at = 0.0

    def __len__(self) -> int:
        return len(self._stands)  # one table further than `_ages` is, and `work` asks for every request

    def sizes(self) -> dict[str, int]:
        """Returns the number of rows in each table; all are 0 where nothing waits."""
        names = ("requests", "clients", "models", "ranks", "backlogs")
        tables: tuple[Sized, ...] = (self._ages, self._client_queues, self._waiting, self._stands, self._backlogs)
        counts = {f"queue_{name}": len(table) for name, table in zip(names, tables, strict=True)}
        return counts | {"queue_bytes": self._held_bytes}

    def waiting(self, model_id: str) -> int:
        """Returns how many requests wait for a model."""
        return self._waiting.get(model_id, 0)

    def requests(self) -> list[InferenceRequest]:
        """Returns the waiting requests."""
        return list(self._ages)

    def models(self) -> list[str]:
        """Returns the ids of the models that requests wait for."""
        return list(self._waiting)

    def supersedes(self, request: InferenceRequest) -> bool:
        """Returns whether a new request would take the place of one that waits."""
        queue = self._client_queues.get(key_of(request)) if request.takes_latest else None
        return queue is not None and queue.superseded_by(request) is not None

    def of_connection(self, connection: int) -> list[InferenceRequest]:
        """Returns the waiting requests that came by a connection."""
        return [request for backlog in self._backlogs.values() for request in backlog.of(connection)]

    def waits(self, connection: int) -> int:
        """Returns how many requests of a connection wait."""
        return sum([backlog.count(connection) for backlog in self._backlogs.values()]) if self._backlogs else 0

    def _leave_tables(self, requests: Sequence[InferenceRequest]) -> None:
        """Removes requests of one pool from all tables but `_stands` and their queues."""
        self._ages.discard_all(requests)
        backlogs, waiting = self._backlogs, self._waiting
        if len(backlogs) == 1:  # as with all strategies that have no ranks
            [(rank, backlog)] = backlogs.items()
            if not backlog.discard_all(requests):
                del backlogs[rank]
        else:
            for request in requests:
                rank, _ = self._stands[request]
                if not backlogs[rank].discard_all((request,)):
                    del backlogs[rank]
        held_bytes = self._held_bytes
        for request in requests:
            held_bytes -= len(request.payload)
        self._held_bytes = held_bytes
        pool = requests[0].pool
        if others := waiting[pool] - len(requests):
            waiting[pool] = others
        else:
            del waiting[pool]
