"""Counts how each client's requests of each model ended, and the age of its last action."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from inferential.tracking.lateness import WINDOW_S, ActionAges, ServerTimes
from inferential.tracking.limits import MAX_MODELS, MAX_OPEN

NOTHING_S = 1.0
"""A robot that asks for longer than this, and than its answers may take, without an answer gets nothing."""
_KEPT_REFUSALS = 8


@dataclass(slots=True)
class Refused:
    """Requests in a row that ended without a result for the same cause.

    Attributes:
        kind, cause: those of their refusals.
        reason: in words, of the last of them.
        count: how many.
        first_at, last_at: in seconds of `time.monotonic()`.
    """

    kind: str
    cause: str
    reason: str
    count: int
    first_at: float
    last_at: float


@dataclass(slots=True)
class OutcomeCounts:
    """Counts of one client and model.

    Attributes:
        answered: results sent.
        in_time: those of them that were sent before their deadline and, where the robot says, used before it.
        superseded: requests that a newer observation replaced.
        refused: requests that ended without a result in any other way.
        sent_age_ms: age of the observation behind the last result when it was sent; None before the first.
        applied_age_ms: the same when the robot applied it, by the robot's clock; None where it does not say.
        unread_ms: how long that result had waited on the robot until it was read; None where it does not say.
        ages: the parts of its actions' ages.
        missed: requests that ended without a result while their robot got nothing.
        refusals: the newest ones that were no superseding, oldest first.
    """

    answered: int = 0
    in_time: int = 0
    superseded: int = 0
    refused: int = 0
    sent_age_ms: float | None = None
    applied_age_ms: float | None = None
    unread_ms: float | None = None
    ages: ActionAges = field(default_factory=ActionAges)
    missed: int = 0
    refusals: deque[Refused] = field(default_factory=lambda: deque(maxlen=_KEPT_REFUSALS))
    _nothing_since: float = math.nan
    _answered_then: int = -1
    _open: dict[int, ServerTimes] = field(default_factory=dict)  # by request id, of answers that may be used yet

    @property
    def age_ms(self) -> float | None:
        """The age of the last action: as the robot says, else when it was sent."""
        return self.sent_age_ms if self.applied_age_ms is None else self.applied_age_ms

    def nothing_since(self) -> float | None:
        """Returns when the first of its newest requests that ended without a result arrived; None: the last got one."""
        return self._nothing_since if self._answered_then == self.answered else None

    def unreported(self, now: float) -> int:
        """Returns how many of the newest answers of the last `WINDOW_S` seconds the robot has not said when it used."""
        return sum(times.sent_at > now - WINDOW_S for times in self._open.values())

    def session(self) -> str:
        """Returns what the ids of its newest answered requests begin with; "" while that is not known."""
        newest = next(reversed(self._open), 0)
        return f"{newest >> 32:x}" if newest else ""

    def on_no_answer(self, received_at: float, budget_s: float, now: float) -> bool:
        """Takes a request that ended without a result; returns whether it is a miss.

        It is where its robot has had no answer for longer than `budget_s` and `NOTHING_S`: a newer observation that
        takes the place of one that waits is none, unless that goes on and on.
        """
        if self._answered_then != self.answered:
            self._answered_then, self._nothing_since = self.answered, received_at
        if now - self._nothing_since <= max(budget_s, NOTHING_S):
            return False
        self.missed += 1
        return True

    def on_refused(self, kind: str, cause: str, reason: str, now: float) -> None:
        """Remembers why a request got no result."""
        last = self.refusals[-1] if self.refusals else None
        if last is not None and (last.kind, last.cause) == (kind, cause):
            last.reason, last.last_at = reason, now
            last.count += 1
        else:
            self.refusals.append(Refused(kind, cause, reason, 1, now, now))

    def on_answer(self, request_id: int, times: ServerTimes) -> str | None:
        """Counts a result that was sent.

        Args:
            request_id: of its request; 0: the client cannot say with its next one when it used the result.
            times: of the answer.

        Returns:
            What made an action late of which the client has not said, and will not say, when it was used; None: none
            is known to be late.
        """
        received_at, _, sent_at, deadline, _, _, _ = times
        self.answered += 1
        self.sent_age_ms = (sent_at - received_at) * 1e3
        self.in_time += sent_at <= deadline
        if not request_id:
            return self.ages.note(sent_at, times, math.nan, 0.0)
        waiting = self._open
        waiting[request_id] = times
        if len(waiting) <= MAX_OPEN:
            return None
        oldest = waiting.pop(next(iter(waiting)))
        if self.applied_age_ms is not None:
            return None  # a robot that says which it used has not used this one
        return self.ages.note(oldest.sent_at, oldest, math.nan, 0.0)

    def on_applied(self, request_id: int, age_ms: float, unread_ms: float, now: float) -> Applied:
        """Takes what the robot says of a result."""
        self.applied_age_ms, self.unread_ms = age_ms, unread_ms
        times = self._open.pop(request_id, None)
        if times is None:
            return _UNKNOWN
        server_ms = (times.sent_at - times.received_at) * 1e3
        cause = self.ages.note(now, times, age_ms, unread_ms)
        is_late = cause is not None and times.sent_at <= times.deadline
        self.in_time -= is_late
        return Applied(max(age_ms - server_ms - unread_ms, 0.0), cause, is_late)


class Applied(NamedTuple):
    """What follows from what a robot says of a result.

    Attributes:
        network_ms: of its age, what was spent neither on the server nor unread; None: the result is not known.
        cause: what made its action late; None: it was in time, as far as is known.
        is_late: whether it was sent in time and used too late.
    """

    network_ms: float | None
    cause: str | None
    is_late: bool


_UNKNOWN = Applied(None, None, False)


class UsedLate(NamedTuple):
    """An answer that was sent in time, and of which its robot says that it used it too late.

    Attributes:
        client_id, model_id: of the robot, and of the model that it asked.
        request_id: of the answer's request.
        cause: what made it late, one of `CAUSES`.
    """

    client_id: str
    model_id: str
    request_id: int
    cause: str


class OutcomeTable:
    """Outcome counts by client and model."""

    def __init__(self) -> None:
        self._clients: dict[str, dict[str, OutcomeCounts]] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def of(self, client_id: str, model_id: str) -> OutcomeCounts:
        """Returns the counts to add to; new ones for a new client or model."""
        models = self._clients.setdefault(client_id, {})
        counts = models.get(model_id)
        if counts is None:
            if len(models) >= MAX_MODELS:
                del models[next(iter(models))]
            counts = models[model_id] = OutcomeCounts()
        return counts

    def models(self, client_id: str) -> dict[str, OutcomeCounts]:
        """Returns the counts of one client, by model."""
        return self._clients.get(client_id, {})

    def forget(self, client_id: str) -> None:
        """Drops a client."""
        self._clients.pop(client_id, None)
