"""Counts how each client's requests of each model ended, and the age of its last action."""

from __future__ import annotations

from dataclasses import dataclass

from inferential.tracking.limits import MAX_MODELS


@dataclass(slots=True)
class OutcomeCounts:
    """Counts of one client and model.

    Attributes:
        answered: results sent.
        in_time: those of them that were sent before their deadline.
        superseded: requests that a newer observation replaced.
        refused: requests that ended without a result in any other way.
        age_ms: age of the observation behind the last result when it was sent; None before the first.
    """

    answered: int = 0
    in_time: int = 0
    superseded: int = 0
    refused: int = 0
    age_ms: float | None = None


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
