"""The rate that each client can have: what a fleet is told so that it asks no more often than it can be served.

It holds nobody back: whoever asks more often is served as the strategy sees fit.

The models of one device, or a model alone, have one capacity, and a level `w` (answers per second): a client that asks
r times a second is served min(r, g w) times, g being its weight. While more is asked than UTILISATION of the capacity,
the level is the one that fills it (max-min fairness by water filling; Bertsekas and Gallager, Data Networks, 1992).
When less is asked, clients may be following what they were told, so that the level rises slowly until it binds nobody.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from inferential.scheduler.time.availability import Availability

UTILISATION = 0.9
RISE = 1.25
"""The most by which a level rises from one update to the next."""
_SHORTEST_S = 1e-6  # a period learned from requests that came at once
_FREE = 4.0  # a level this many times above what every client asks for is none


@dataclass(frozen=True, slots=True)
class RateRequest:
    """What one client asks of one model, how often, and the weight of its share."""

    client_id: str
    model_id: str
    per_second: float
    weight: float


class FairShares:
    """The interval that each client can have, worked out anew now and then."""

    def __init__(self, availability: Availability) -> None:
        self._availability = availability
        self._levels: dict[str, float] = {}  # by the first model of a device
        self._intervals_ms: dict[tuple[str, str], float] = {}
        self._weights: dict[tuple[str, str], float] = {}

    def note(self, client_id: str, model_id: str, weight: float) -> None:
        """A client asks a model; `weight`, above 0, is that of its share."""
        self._weights[client_id, model_id] = weight

    def interval_ms(self, client_id: str, model_id: str) -> float:
        """The shortest interval at which a client can be served; 0 where no limit is known."""
        return self._intervals_ms.get((client_id, model_id), 0.0)

    def update(self, periods: Iterable[tuple[str, str, float]]) -> None:
        """Works out the shares of those who ask now.

        Args:
            periods: clients, models and the seconds between their requests; of the others the weights are forgotten.
        """
        groups: dict[str, list[RateRequest]] = {}
        weights = {}
        for client_id, model_id, period_s in periods:
            weight = weights[client_id, model_id] = self._weights.get((client_id, model_id), 1.0)
            wish = RateRequest(client_id, model_id, 1 / max(period_s, _SHORTEST_S), weight)
            groups.setdefault(min(self._availability.colocated_models(model_id)), []).append(wish)
        self._weights = weights
        self._levels = {group: self._level(group, asked) for group, asked in groups.items()}
        self._intervals_ms = {
            (wish.client_id, wish.model_id): 1e3 / (level * wish.weight)
            for group, asked in groups.items()
            if (level := self._levels[group]) < math.inf
            for wish in asked
        }

    def _level(self, group: str, wishes: Sequence[RateRequest]) -> float:
        costs = {model_id: self._cost_s(model_id) for model_id in {wish.model_id for wish in wishes}}
        asked = sum(wish.per_second * costs[wish.model_id] for wish in wishes)
        if asked > UTILISATION:
            return _filled(wishes, costs)
        level = self._levels.get(group, math.inf) * min(RISE, UTILISATION / asked if asked > 0 else RISE)
        return math.inf if all(level * wish.weight > _FREE * wish.per_second for wish in wishes) else level

    def _cost_s(self, model_id: str) -> float:
        """Seconds of all its replicas together that one answer takes, in the best batches that were seen."""
        per_second = sum(
            max(slot.profile.rate(size) for size in range(1, min(slot.max_batch_size, slot.profile.explored()) + 1))
            for slot in self._availability.slots(model_id)
        )
        return 1.0 / per_second


def _filled(wishes: Sequence[RateRequest], costs: Mapping[str, float]) -> float:
    """The level at which serving min(asked, weight * level) takes UTILISATION of the time."""
    by_need = sorted(wishes, key=lambda wish: wish.per_second / wish.weight)
    left = UTILISATION
    slope = sum(wish.weight * costs[wish.model_id] for wish in by_need)
    for wish in by_need:
        if slope * wish.per_second / wish.weight >= left:
            break
        left -= wish.per_second * costs[wish.model_id]
        slope -= wish.weight * costs[wish.model_id]
    return left / slope if slope > 0 else math.inf
