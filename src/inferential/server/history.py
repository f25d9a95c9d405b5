"""The newest model calls, finished and running, for the status page."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter

from inferential.scheduler.running import Batch

MAX_FINISHED_CALLS = 1024
"""Finished calls that are kept."""


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """One call of a model; times are seconds since the server started.

    Attributes:
        number: sequence number; the newest call has the highest.
        model_id: the model that was called, or the pool of its version.
        replica: the replica that ran it; "" where the model has only one.
        rows: requests in the batch.
        started_s: when it was dispatched.
        ended_s: when it ended; None while it runs.
        ok: True if at least one request got a result, and while the call runs.
        clients: the client of each row.
    """

    number: int
    model_id: str
    replica: str
    rows: int
    started_s: float
    ended_s: float | None
    ok: bool
    clients: tuple[str, ...]


_CLIENT_ID = attrgetter("client_id")
_FinishedCall = tuple[int, str, str, float, float, bool, list[str]]
"""The fields of a `BatchStatus`, which is built only when the status is read."""


class History:
    """Remembers the newest calls.

    Args:
        started_at: when the server started, in seconds of `time.monotonic()`.

    Attributes:
        ended_count: calls that have ended so far.
    """

    def __init__(self, started_at: float) -> None:
        self.started_at = started_at
        self._finished: deque[_FinishedCall] = deque(maxlen=MAX_FINISHED_CALLS)
        self._running: dict[Batch, int] = {}
        self._count = 0
        self.ended_count: int = 0

    def __len__(self) -> int:
        return len(self._finished) + len(self._running)

    def began(self, batch: Batch) -> None:
        """Adds a call that has been dispatched."""
        self._count += 1
        self._running[batch] = self._count

    def ended(self, batch: Batch, now: float, *, ok: bool) -> None:
        """Moves a call to the finished ones."""
        self.ended_count += 1
        clients = list(map(_CLIENT_ID, batch.requests))  # not the requests, which hold large payloads
        self._finished.append(
            (self._running.pop(batch), batch.model_id, batch.replica, batch.started_at, now, ok, clients)
        )

    def batches(self, after: int = 0, most: int = MAX_FINISHED_CALLS) -> list[BatchStatus]:
        """Returns the calls that ended after the first `after` of them had, as they ended, then the running ones.

        Of more than `most` finished ones it returns so many or fewer, every second, third and so on, and the last.
        """
        count = min(self.ended_count - after, len(self._finished))
        newest = islice(reversed(self._finished), 0, count, max(math.ceil(count / most), 1))
        found = [self._status(*call) for call in newest][::-1]
        for batch, number in self._running.items():
            clients = list(map(_CLIENT_ID, batch.requests))
            found.append(self._status(number, batch.model_id, batch.replica, batch.started_at, None, True, clients))
        return found

    def _status(
        self,
        number: int,
        model_id: str,
        replica: str,
        started_at: float,
        ended_at: float | None,
        ok: bool,
        clients: list[str],
    ) -> BatchStatus:
        model_id, _, part = model_id.partition("%")  # where replicas keep state each is a pool of its own
        started_s = started_at - self.started_at
        ended_s = None if ended_at is None else ended_at - self.started_at
        return BatchStatus(number, model_id, replica or part, len(clients), started_s, ended_s, ok, tuple(clients))
