"""How each client's requests of each model ended, counted, and how old its last action was.

What the ends mean for metrics is `metrics.recorder`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass

from inferential.tracking.limits import MAX_MODELS


@dataclass(slots=True)
class Tally:
    """Of one client and model.

    Attributes:
        answered: results sent.
        in_time: those of them that were sent before their deadline.
        superseded: requests that gave way to a newer observation.
        refused: requests that ended without a result in any other way.
        age_ms: how old the observation behind the last result was when it was sent; None before the first.
    """

    answered: int = 0
    in_time: int = 0
    superseded: int = 0
    refused: int = 0
    age_ms: float | None = None


class Tallies:
    """By client and model."""

    def __init__(self) -> None:
        self._clients: dict[str, dict[str, Tally]] = {}

    def of(self, client_id: str, model_id: str) -> Tally:
        """The tally to count in."""
        models = self._clients.setdefault(client_id, {})
        tally = models.get(model_id)
        if tally is None:
            if len(models) >= MAX_MODELS:
                del models[next(iter(models))]
            tally = models[model_id] = Tally()
        return tally

    def models(self, client_id: str) -> dict[str, Tally]:
        """All of one client, by model."""
        return self._clients.get(client_id, {})

    def forget(self, client_id: str) -> None:
        """Drops a client."""
        self._clients.pop(client_id, None)
