"""Fair shares: the interval at which each client can be served, sent with answers so that a fleet can follow it.

It limits no client that asks for about as much as the others. One that asks for more than FLOOD times its share of a
model, while a good part of the others (MODEST) ask for less than theirs, is served at that share only (`pace_s`): it
finds the model busy anyway, and the others find it free as often as UTILISATION says.

The models of one device, or a model alone, have one capacity, and a level `w` (answers per second): a client that asks
r times a second is served min(r, g w) times, g being its weight. While more is asked than UTILISATION of the capacity,
the level is the one that fills it (max-min fairness by water filling; Bertsekas and Gallager, Data Networks, 1992).
When less is asked, clients may be following their intervals, so the level rises slowly until it limits no client.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from inferential.scheduler.time.availability import Availability

UTILISATION = 0.9
FLOOD = 3.0
MODEST = 0.2
"""Where fewer of the clients ask for less than their share, it is the model that is too slow, and nobody floods it."""
RISE = 1.25
"""The most by which a level rises from one update to the next."""
_SHORTEST_S = 1e-6  # a period learned from requests that came at once
_FREE = 4.0  # a level this many times above what every client asks for is none


class RateRequest(NamedTuple):  # a thousand of them are made at once, in half the time that a dataclass takes
    """How often one client asks one model, per second, and the weight of its share."""

    client_id: str
    model_id: str
    per_second: float
    weight: float


class FairShares:
    """The interval at which each client can be served, computed anew by each `update`.

    Args:
        availability: the models' replicas and latencies, from which their capacity follows.
    """

    def __init__(self, availability: Availability) -> None:
        self._availability = availability
        self._levels: dict[str, float] = {}  # by the first model of a device
        self._intervals_ms: dict[tuple[str, str], float] = {}
        self._paces_s: dict[tuple[str, str], float] = {}
        self._weights: dict[tuple[str, str], float] = {}

    def note(self, client_id: str, model_id: str, weight: float) -> None:
        """Notes the weight, above 0, of a client's share of a model."""
        self._weights[client_id, model_id] = weight

    def interval_ms(self, client_id: str, model_id: str) -> float:
        """Returns the shortest interval at which a client can be served, in ms; 0 where no limit is known."""
        return self._intervals_ms.get((client_id, model_id), 0.0)

    def pace_s(self, client_id: str, model_id: str) -> float:
        """Returns how long after a call a client is not served again that floods a model, in s; 0: it does not."""
        return self._paces_s.get((client_id, model_id), 0.0)

    def update(self, periods: Iterable[tuple[str, str, float]]) -> None:
        """Computes the shares of the clients that ask now, and forgets the others.

        Args:
            periods: (client id, model id, seconds between requests) of each.
        """
        groups: dict[str, list[RateRequest]] = {}
        weights = {}
        for client_id, model_id, period_s in periods:
            weight = weights[client_id, model_id] = self._weights.get((client_id, model_id), 1.0)
            request = RateRequest(client_id, model_id, 1 / max(period_s, _SHORTEST_S), weight)
            groups.setdefault(min(self._availability.colocated_models(model_id)), []).append(request)
        self._weights = weights
        self._levels = {group: self._level(group, asked) for group, asked in groups.items()}
        self._intervals_ms = {
            (request.client_id, request.model_id): 1e3 / (level * request.weight)
            for group, asked in groups.items()
            if (level := self._levels[group]) < math.inf
            for request in asked
        }
        self._paces_s = {}
        for group, asked in groups.items():
            level = self._levels[group]
            shares = [(request, request.per_second / (level * request.weight)) for request in asked]
            if sum(part <= 1 for _, part in shares) >= MODEST * len(shares):
                for request, part in shares:
                    if part > FLOOD:
                        self._paces_s[request.client_id, request.model_id] = 1 / (level * request.weight)

    def _level(self, group: str, requests: Sequence[RateRequest]) -> float:
        costs = {model_id: self._cost_s(model_id) for model_id in {request.model_id for request in requests}}
        asked = sum(request.per_second * costs[request.model_id] for request in requests)
        if asked > UTILISATION:
            return _filled(requests, costs)
        level = self._levels.get(group, math.inf) * min(RISE, UTILISATION / asked if asked > 0 else RISE)
        return math.inf if all(level * request.weight > _FREE * request.per_second for request in requests) else level

    def _cost_s(self, model_id: str) -> float:
        """Returns the seconds that one answer takes all replicas together, in the best batches seen."""
        per_second = sum(
            max(slot.profile.rate(size) for size in range(1, min(slot.max_batch_size, slot.profile.explored()) + 1))
            for slot in self._availability.slots(model_id)
        )
        return 1.0 / per_second


def _filled(requests: Sequence[RateRequest], costs: Mapping[str, float]) -> float:
    """Returns the level at which serving min(asked, weight * level) takes UTILISATION of the time."""
    by_need = sorted(requests, key=lambda request: request.per_second / request.weight)
    left = UTILISATION
    slope = sum(request.weight * costs[request.model_id] for request in by_need)
    for request in by_need:
        if slope * request.per_second / request.weight >= left:
            break
        left -= request.per_second * costs[request.model_id]
        slope -= request.weight * costs[request.model_id]
    return left / slope if slope > 0 else math.inf
