"""Finds the models that are asked over and over by clients which ask once and never again.

Of one that uses ever new client ids, or connects anew with each, no cadence is learned, and none of its ids asks for
much. A fleet that starts has as many new clients, yet each of them asks again soon.
"""

from __future__ import annotations

import math

MEMORY_S = 5.0
"""Clients that have not asked again count by exp(-age / MEMORY_S)."""
AGAIN_S = 1.0
"""For so long many of them must have been there: robots that start ask again within a while."""
MANY = 50
"""Fewer of them are no flood."""
_MOST_MODELS = 1024


class _OfModel:
    """The newcomers of one model."""

    __slots__ = ("many_since", "once")

    def __init__(self) -> None:
        self.once = 0.0  # that have not asked again
        self.many_since = math.inf


class Newcomers:
    """The clients that have asked a model once, by model.

    Attributes:
        flooded: the models that newcomers flood.
    """

    __slots__ = ("_counted_at", "_models", "flooded")

    def __init__(self) -> None:
        self._models: dict[str, _OfModel] = {}
        self._counted_at = math.inf
        self.flooded: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self._models)

    def came(self, model_id: str) -> None:
        """Counts a client's first request."""
        if (found := self._models.get(model_id)) is None:
            if len(self._models) >= _MOST_MODELS:
                self._models.clear()
            found = self._models[model_id] = _OfModel()
        found.once += 1.0

    def asked_again(self, model_id: str) -> None:
        """Counts a client's second request."""
        if (found := self._models.get(model_id)) is not None:
            found.once = max(found.once - 1.0, 0.0)

    def count(self, now: float) -> frozenset[str]:
        """Finds `flooded` anew, and returns which models were not in it; to be called several times a second."""
        left = math.exp(min(self._counted_at - now, 0.0) / MEMORY_S)
        self._counted_at = now
        flooded = []
        for model_id, found in self._models.items():
            found.once *= left
            found.many_since = min(found.many_since, now) if found.once >= MANY else math.inf
            if now - found.many_since >= AGAIN_S:
                flooded.append(model_id)
        before, self.flooded = self.flooded, frozenset(flooded)
        return self.flooded - before
