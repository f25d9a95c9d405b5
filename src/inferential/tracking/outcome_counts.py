"""Counts how each client's requests of each model ended, and the age of its last action."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from inferential.tracking.limits import MAX_MODELS

_MAX_ALLOWED = 8  # answers of which the robot may still say when it used them


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
    """

    answered: int = 0
    in_time: int = 0
    superseded: int = 0
    refused: int = 0
    sent_age_ms: float | None = None
    applied_age_ms: float | None = None
    unread_ms: float | None = None
    _allowed_ms: dict[int, float] = field(default_factory=dict)  # by request id, of answers that were sent in time

    @property
    def age_ms(self) -> float | None:
        """The age of the last action: as the robot says, else when it was sent."""
        return self.sent_age_ms if self.applied_age_ms is None else self.applied_age_ms

    def on_answer(self, request_id: int, received_at: float, sent_at: float, deadline: float) -> None:
        """Counts a result that was sent; times are seconds of `time.monotonic()`."""
        self.answered += 1
        self.sent_age_ms = (sent_at - received_at) * 1e3
        if sent_at > deadline:
            return
        self.in_time += 1
        if request_id:
            self._allowed_ms[request_id] = (deadline - received_at) * 1e3
            if len(self._allowed_ms) > _MAX_ALLOWED:
                del self._allowed_ms[next(iter(self._allowed_ms))]

    def on_applied(self, request_id: int, age_ms: float, unread_ms: float) -> bool:
        """Takes what the robot says of a result; returns whether it was used too late, though it was sent in time."""
        self.applied_age_ms, self.unread_ms = age_ms, unread_ms
        if age_ms <= self._allowed_ms.get(request_id, math.inf):
            return False
        del self._allowed_ms[request_id]
        self.in_time -= 1
        return True


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
