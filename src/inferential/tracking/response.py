"""The life cycle of each response, from the observation that requests it to its use by the robot.

No clock and no timer. The states of a response:

    PENDING -> ISSUED -> CONSUMED       the robot's next observation arrived: it has used this one
       |         |--> INVALIDATED       it could not be delivered, or a newer one was sent before it was used
       |         +--> EXPIRED           the robot was silent for the time-out after it
       |--> INVALIDATED                 its request was refused or superseded, or too many are pending
       +--> EXPIRED                     it was not answered within the time-out

CONSUMED, INVALIDATED and EXPIRED are final.

It is for programs that track responses of their own: the server has what it shows of them from its requests, and from
`outcome_counts` what robots have used.
"""

from __future__ import annotations

import enum
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inferential.tracking.limits import MAX_PENDING


class ResponseState(enum.Enum):
    """The state of a response."""

    PENDING = "pending"
    ISSUED = "issued"
    CONSUMED = "consumed"
    INVALIDATED = "invalidated"
    EXPIRED = "expired"

    if not TYPE_CHECKING:  # Enum's own is written in Python, and would take as long as everything else here
        __hash__ = object.__hash__


# As module constants: looking a member up in its class takes CPython 3.11 ten times as long.
PENDING, ISSUED, CONSUMED, INVALIDATED, EXPIRED = ResponseState


_NEXT: dict[ResponseState, frozenset[ResponseState]] = {
    PENDING: frozenset({ISSUED, INVALIDATED, EXPIRED}),
    ISSUED: frozenset({CONSUMED, INVALIDATED, EXPIRED}),
    CONSUMED: frozenset(),
    INVALIDATED: frozenset(),
    EXPIRED: frozenset(),
}


@dataclass(slots=True, eq=False)
class ResponseRecord:
    """One response. Times are seconds of `time.monotonic()`."""

    client_id: str
    response_id: str
    state: ResponseState = PENDING
    created_at: float = field(default_factory=lambda: time.monotonic())
    issued_at: float | None = None
    latency_ms: float | None = None
    reason: str | None = None
    model_id: str = ""


class ResponseTracker:
    """Tracks the pending and active responses of all clients.

    For each client and model it stores the active response (the last that was issued, until it expires) and the pending
    ones. Ended responses are counted and dropped, except the active one.

    Args:
        disconnect_timeout_s: seconds that a response may stay pending or issued before it expires.
    """

    def __init__(self, disconnect_timeout_s: float = 10.0) -> None:
        self.disconnect_timeout_s = disconnect_timeout_s
        self._connected: set[str] = set()
        self._active: dict[str, dict[str, ResponseRecord]] = {}
        self._pending: dict[str, dict[str, ResponseRecord]] = {}
        # Oldest first: a record moves to the end when it is issued, and its time-out restarts.
        self._open: OrderedDict[ResponseRecord, float] = OrderedDict()
        self._counts: Counter[ResponseState] = Counter()

    def on_request(self, client_id: str, response_id: str = "", model_id: str = "", now: float | None = None) -> None:
        """Records an observation: the client has used its active response, and requests that of `response_id`.

        An id that is pending already is ignored. A client has at most 256 pending responses; with one more, the oldest
        is invalidated.
        """
        now = time.monotonic() if now is None else now
        self._connected.add(client_id)
        active = self.get_active(client_id, model_id)
        if active is not None and active.state is ISSUED:
            self._move(active, CONSUMED)
        if not response_id:
            return
        pending = self._pending.setdefault(client_id, {})
        if response_id in pending:
            return
        if len(pending) >= MAX_PENDING:
            self._end_pending(next(iter(pending.values())), INVALIDATED, "too many are pending")
        pending[response_id] = record = ResponseRecord(client_id, response_id, created_at=now, model_id=model_id)
        self._open[record] = now

    def on_response_sent(
        self, client_id: str, response_id: str, latency_ms: float, model_id: str = "", now: float | None = None
    ) -> None:
        """Records a response that was sent, as the active one of its client and model."""
        now = time.monotonic() if now is None else now
        record = self._take_pending(client_id, response_id)
        if record is None:
            record = ResponseRecord(client_id, response_id, created_at=now, model_id=model_id)
        models = self._active.setdefault(client_id, {})
        before = models.get(model_id)
        if before is not None and before.state is ISSUED:
            before.reason = "a newer response was issued"
            self._move(before, INVALIDATED)
        self._move(record, ISSUED)
        record.model_id, record.issued_at, record.latency_ms = model_id, now, latency_ms
        models[model_id] = record
        self._open[record] = now
        self._open.move_to_end(record)

    def on_invalidated(self, client_id: str, reason: str, response_id: str | None = None, model_id: str = "") -> bool:
        """Invalidates the pending or active response of `response_id`; the active one if no id is given.

        Returns False if there is none, or if it has ended already.
        """
        if response_id is not None:
            pending = self._pending.get(client_id, {}).get(response_id)
            if pending is not None:
                self._end_pending(pending, INVALIDATED, reason)
                return True
        active = self.get_active(client_id, model_id)
        if active is None or active.state is not ISSUED:
            return False
        if response_id is not None and response_id != active.response_id:
            return False
        active.reason = reason
        self._move(active, INVALIDATED)
        return True

    def expire(self, now: float) -> list[ResponseRecord]:
        """Ends and drops what has been pending or issued for longer than the time-out; returns it."""
        expired: list[ResponseRecord] = []
        while (at := self.expires_at()) is not None and at <= now:
            record = next(iter(self._open))
            if record.state is PENDING:
                self._end_pending(record, EXPIRED, None)
            else:
                self._move(record, EXPIRED)
                models = self._active[record.client_id]
                del models[record.model_id]
                if not models:
                    del self._active[record.client_id]
                    self._forget_if_none_is_pending(record.client_id)
            expired.append(record)
        return expired

    def open_responses(self) -> list[ResponseRecord]:
        """Returns what is pending or issued, in the order in which it would expire."""
        return list(self._open)

    def expires_at(self) -> float | None:
        """Returns when `expire` will find something; None while no response is open."""
        since = next(iter(self._open.values()), None)
        return None if since is None else since + self.disconnect_timeout_s

    def get_active(self, client_id: str, model_id: str = "") -> ResponseRecord | None:
        """Returns the last response sent to a client for a model, until it expires; else None."""
        models = self._active.get(client_id)
        return None if models is None else models.get(model_id)

    def forget(self, client_id: str) -> None:
        """Drops a client; its open responses count as expired."""
        self._connected.discard(client_id)
        records = [*self._pending.pop(client_id, {}).values(), *self._active.pop(client_id, {}).values()]
        for record in records:
            if record in self._open:
                self._move(record, EXPIRED)

    @property
    def connected_clients(self) -> set[str]:
        """The clients that have sent observations and were not forgotten; a copy."""
        return self._connected.copy()

    def sizes(self) -> dict[str, int]:
        """Returns the number of entries in each table."""
        return {
            "responses_open": len(self._open),
            "responses_active": sum(map(len, self._active.values())),
            "responses_pending": sum(map(len, self._pending.values())),
            "response_clients": len(self._connected),
        }

    def counts(self) -> dict[ResponseState, int]:
        """Returns how many responses have ended in each final state."""
        return dict(self._counts)

    def _take_pending(self, client_id: str, response_id: str) -> ResponseRecord | None:
        pending = self._pending.get(client_id)
        return None if pending is None else pending.pop(response_id, None)

    def _forget_if_none_is_pending(self, client_id: str) -> None:
        if not self._pending.get(client_id):
            self._pending.pop(client_id, None)

    def _end_pending(self, record: ResponseRecord, state: ResponseState, reason: str | None) -> None:
        self._take_pending(record.client_id, record.response_id)
        self._forget_if_none_is_pending(record.client_id)
        record.reason = reason
        self._move(record, state)

    def _move(self, record: ResponseRecord, state: ResponseState) -> None:
        if state not in _NEXT[record.state]:
            raise ValueError(f"response {record.response_id!r}: {record.state} -> {state}")
        record.state = state
        if not _NEXT[state]:
            self._open.pop(record, None)
            self._counts[state] += 1
