"""What becomes of each response, from the observation that asks for it to the robot that uses it up.

It sends nothing and times nothing by itself. The whole life of a response:

    PENDING -> ISSUED -> CONSUMED       the robot's next observation came: it has used this one
       |         |--> INVALIDATED       it could not be delivered, or a newer one was issued before it was used
       |         +--> EXPIRED           the robot was silent for too long after it
       |--> INVALIDATED                 its request was refused or superseded
       +--> EXPIRED                     nothing was heard of it for too long

CONSUMED, INVALIDATED and EXPIRED are ends.
"""

from __future__ import annotations

import enum
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field


class ResponseState(enum.Enum):
    """Where a response stands."""

    PENDING = "pending"
    ISSUED = "issued"
    CONSUMED = "consumed"
    INVALIDATED = "invalidated"
    EXPIRED = "expired"


_NEXT: dict[ResponseState, frozenset[ResponseState]] = {
    ResponseState.PENDING: frozenset({ResponseState.ISSUED, ResponseState.INVALIDATED, ResponseState.EXPIRED}),
    ResponseState.ISSUED: frozenset({ResponseState.CONSUMED, ResponseState.INVALIDATED, ResponseState.EXPIRED}),
    ResponseState.CONSUMED: frozenset(),
    ResponseState.INVALIDATED: frozenset(),
    ResponseState.EXPIRED: frozenset(),
}


@dataclass(slots=True, eq=False)
class ResponseRecord:
    """One response. Times are seconds of `time.monotonic()`."""

    client_id: str
    response_id: str
    state: ResponseState = ResponseState.PENDING
    created_at: float = field(default_factory=lambda: time.monotonic())
    issued_at: float | None = None
    latency_ms: float | None = None
    reason: str | None = None
    model_id: str = ""


class ResponseTracker:
    """The responses of all clients that are on their way or in use.

    Of each client and model it keeps the active response (the last that was issued) and the pending ones; what has
    ended is counted and, but for the active one, forgotten.

    Args:
        disconnect_timeout_s: how long a response may stay pending or issued before it expires.
    """

    def __init__(self, disconnect_timeout_s: float = 10.0) -> None:
        self.disconnect_timeout_s = disconnect_timeout_s
        self._active: dict[str, dict[str, ResponseRecord]] = {}
        self._pending: dict[str, dict[str, ResponseRecord]] = {}
        # Oldest first: a record goes to the end when it is issued, and its time begins anew.
        self._open: OrderedDict[ResponseRecord, float] = OrderedDict()
        self._counts: Counter[ResponseState] = Counter()

    def on_request(self, client_id: str, response_id: str = "", model_id: str = "", now: float | None = None) -> None:
        """A client observed: it has used the response that it had, and asks for that of `response_id`."""
        now = time.monotonic() if now is None else now
        active = self._active.setdefault(client_id, {}).get(model_id)
        if active is not None and active.state is ResponseState.ISSUED:
            self._move(active, ResponseState.CONSUMED)
        if response_id:
            record = ResponseRecord(client_id, response_id, created_at=now, model_id=model_id)
            self._pending.setdefault(client_id, {})[response_id] = record
            self._open[record] = now

    def on_response_sent(
        self, client_id: str, response_id: str, latency_ms: float, model_id: str = "", now: float | None = None
    ) -> None:
        """A response was sent: it is the active one of its client and model from now on."""
        now = time.monotonic() if now is None else now
        record = self._pending.get(client_id, {}).pop(response_id, None)
        if record is None:
            record = ResponseRecord(client_id, response_id, created_at=now, model_id=model_id)
        models = self._active.setdefault(client_id, {})
        before = models.get(model_id)
        if before is not None and before.state is ResponseState.ISSUED:
            before.reason = "a newer response was issued"
            self._move(before, ResponseState.INVALIDATED)
        self._move(record, ResponseState.ISSUED)
        record.issued_at, record.latency_ms = now, latency_ms
        models[model_id] = record
        self._open[record] = now
        self._open.move_to_end(record)

    def on_invalidated(self, client_id: str, reason: str, response_id: str | None = None, model_id: str = "") -> bool:
        """A response is void: the pending one of `response_id`, or else the active one. False if there is none."""
        if response_id is not None:
            record = self._pending.get(client_id, {}).pop(response_id, None)
        else:
            record = self._active.get(client_id, {}).get(model_id)
        if record is None or ResponseState.INVALIDATED not in _NEXT[record.state]:
            return False
        record.reason = reason
        self._move(record, ResponseState.INVALIDATED)
        return True

    def expire(self, now: float) -> list[ResponseRecord]:
        """Ends what has been pending or issued for too long; gives what it ended."""
        expired: list[ResponseRecord] = []
        while self._open:
            record, since = next(iter(self._open.items()))
            if now - since < self.disconnect_timeout_s:
                break
            self._pending.get(record.client_id, {}).pop(record.response_id, None)
            self._move(record, ResponseState.EXPIRED)
            expired.append(record)
        return expired

    def get_active(self, client_id: str, model_id: str = "") -> ResponseRecord | None:
        """The last response that was sent to a client for a model."""
        return self._active.get(client_id, {}).get(model_id)

    def forget(self, client_id: str) -> None:
        """Drops a client; what it had open counts as expired."""
        records = [*self._pending.pop(client_id, {}).values(), *self._active.pop(client_id, {}).values()]
        for record in records:
            if record in self._open:
                self._move(record, ResponseState.EXPIRED)

    @property
    def connected_clients(self) -> set[str]:
        """The clients that have observed and were not forgotten."""
        return set(self._active)

    def counts(self) -> dict[ResponseState, int]:
        """How many responses have ended how."""
        return dict(self._counts)

    def _move(self, record: ResponseRecord, state: ResponseState) -> None:
        if state not in _NEXT[record.state]:
            raise ValueError(f"response {record.response_id!r}: {record.state} -> {state}")
        record.state = state
        if not _NEXT[state]:
            self._open.pop(record, None)
            self._counts[state] += 1
