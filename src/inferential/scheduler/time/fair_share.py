"""Fair shares: the interval at which each client can be served, sent with answers so that a fleet can follow it.

It limits no client that asks for about as much as the others. One that asks for more than FLOOD times its share of a
model, while a good part of the others (MODEST) ask for less than theirs, or for FAR times less than that client, is
served at that share only (`pace_s`): it finds the model busy anyway, and the others find it free as often as
UTILISATION says.

A client that asks again as soon as it is answered asks only as often as it is served, but would ask for more. Where one
would ask for more than BEYOND times its share, all that would ask for more than theirs go after the others
(`goes_aside`), and get what these leave, which is their share and more.

The models of one device, or a model alone, have one capacity, and a level `w` (answers per second): a client that asks
r times a second is served min(r, g w) times, g being its weight. While more is asked than UTILISATION of the capacity,
the level is the one that fills it (max-min fairness by water filling; Bertsekas and Gallager, Data Networks, 1992).
When less is asked, clients may be following their intervals, so the level rises slowly until it limits no client.

Where classes of clients are configured, `planned_rates` says in place of one level what each client is due.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence

from inferential.scheduler.time.availability import Availability
from inferential.scheduler.time.planned_rates import ClassRate, RateRequest, filled, planned

UTILISATION = 0.9
FLOOD = 3.0
BEYOND = 2.0
"""Of a share, what a client would ask for; below, learned rates are too vague to act on."""
MODEST = 0.2
"""Where fewer of the clients ask for less than their share, the model is too slow, and no client floods it."""
RISE = 1.25
"""The most by which a level rises from one update to the next."""
FAR = 50.0
"""Times what a good part of the others ask for, by which a client floods a model that is too slow for all of them."""
FALL, _REGAIN, _LEAST = 0.8, 1.03, 0.3
"""How what is shared falls while a flood keeps others waiting, rises again, and its least part of the capacity: a busy
machine serves less than the latency of single calls promises."""
STEP = 128
"""Clients that are looked at in a step: a few tenths of a millisecond."""
_SHORTEST_S = 1e-6  # a period learned from requests that came at once
_FREE = 4.0  # a level this many times above what every client asks for is none


class FairShares:
    """The interval at which each client can be served, computed anew by each `update`.

    Args:
        availability: the models' replicas and latencies, from which their capacity follows.

    Attributes:
        limits_any: whether any client has an interval.
        finds_floods: whether any client is held back that floods a model.
        sets_aside: whether any client goes after others.
    """

    def __init__(self, availability: Availability) -> None:
        self._availability = availability
        self._levels: dict[str, float] = {}  # by the first model of a device
        self._factors: dict[str, float] = {}  # the same; of the capacity, how much is shared
        self._intervals_ms: dict[tuple[str, str], float] = {}
        self._paces_s: dict[tuple[str, str], float] = {}
        self.limits_any: bool = False
        self.finds_floods: bool = False
        self.sets_aside: bool = False
        self._aside: set[tuple[str, str]] = set()
        self._flood_rates: dict[tuple[str, str], float] = {}  # of the same, how much they asked, per second
        self._weights: dict[tuple[str, str], tuple[float, str]] = {}
        self._classes: Mapping[str, ClassRate] = {}
        self._pools: dict[tuple[str, str], str] = {}  # by client and model, where it is not named as that
        self._planned: dict[tuple[str, str], float] = {}  # answers per second, of groups with a configured class

    def configure(self, classes: Mapping[str, ClassRate]) -> None:
        """Sets what classes of clients are due, by name."""
        self._classes = classes

    def note(self, client_id: str, model_id: str, weight: float, robot_class: str = "", pool: str = "") -> None:
        """Notes the weight, above 0, of a client's share of a model, its class, and the pool that answers it."""
        self._weights[client_id, model_id] = weight, robot_class
        if pool and pool != model_id:
            self._pools[client_id, model_id] = pool
        elif self._pools:
            self._pools.pop((client_id, model_id), None)

    def interval_ms(self, client_id: str, pool: str) -> float:
        """Returns the shortest interval at which a client can be served by a pool, in ms; 0 where no limit is known."""
        return self._intervals_ms.get((client_id, pool), 0.0)

    def model_interval_ms(self, client_id: str, model_id: str) -> float:
        """Returns the same of the pool that answers a client for a model."""
        return self.interval_ms(client_id, self._pools.get((client_id, model_id), model_id))

    def pace_s(self, client_id: str, model_id: str) -> float:
        """Returns how long after a call a client is not served again that floods a model, in s; 0: it does not."""
        return self._paces_s.get((client_id, model_id), 0.0)

    def goes_aside(self, client_id: str, model_id: str) -> bool:
        """Returns whether requests of a client go after those of others, which ask for less than their share."""
        return (client_id, model_id) in self._aside

    def update(
        self,
        periods: Iterable[tuple[str, str, float]],
        pressed: Collection[str] = (),
        is_behind: Callable[[str], bool] = lambda client_id: False,
        pause_s: Callable[[str, str], float] = lambda client_id, model_id: math.inf,
    ) -> None:
        """Computes the shares of the clients that ask now, and forgets the others.

        Args:
            periods: (client id, model id, seconds between requests) of each.
            pressed: models for which clients wait that do not flood them: there is less to share than is known.
            is_behind: returns whether a client has sent more than was read of it. One that floods is read less, and
                seems to ask for less then: it counts as asking for what it did.
            pause_s: returns how long after the answer to its newest request a client asks a model again, in seconds;
                infinite: not known.
        """
        for _ in self.steps(periods, pressed, is_behind, pause_s):
            pass

    def steps(
        self,
        periods: Iterable[tuple[str, str, float]],
        pressed: Collection[str],
        is_behind: Callable[[str], bool],
        pause_s: Callable[[str, str], float],
    ) -> Iterator[None]:
        """Does what `update` does, a part with each step; until the last the shares are those from before."""
        groups = yield from self._asked(periods, is_behind)
        self._adjust(groups, pressed)
        due: dict[RateRequest, float] = {}
        plans: list[Mapping[RateRequest, float]] = []
        levels = {group: self._level(group, asked) for group, asked in groups.items()}
        yield
        for group, asked in groups.items():
            if self._classes and any(request.robot_class in self._classes for request in asked):
                plans.append(self._plan(asked))
                due.update(plans[-1])
            elif (level := levels[group]) < math.inf:
                due.update({request: level * request.weight for request in asked})
        planned = {(request.client_id, request.model_id): rate for plan in plans for request, rate in plan.items()}
        yield
        self._levels, self._planned = levels, planned
        self._intervals_ms = {(request.client_id, request.model_id): 1e3 / rate for request, rate in due.items()}
        self.limits_any = bool(self._intervals_ms)
        self._paces_s, self._flood_rates = {}, {}
        aside: set[tuple[str, str]] = set()
        for group, asked in groups.items():
            limited = [request for request in asked if request in due]
            self._find_floods(limited, due)
            yield
            aside |= yield from self._beyond_share(limited, due, self._factors.get(group, 1.0), pause_s)
        self._aside = aside
        self.finds_floods, self.sets_aside = bool(self._paces_s), bool(aside)

    def _asked(
        self, periods: Iterable[tuple[str, str, float]], is_behind: Callable[[str], bool]
    ) -> Generator[None, None, dict[str, list[RateRequest]]]:
        """Returns what is asked, by the first model of each device, and forgets clients that do not ask."""
        groups: dict[str, list[RateRequest]] = {}
        of_pool: dict[str, list[RateRequest]] = {}
        weights, pools = {}, {}
        for number, (client_id, model_id, period_s) in enumerate(periods, start=1):
            key = client_id, model_id
            known = weights[key] = self._weights.get(key, (1.0, ""))
            pool = model_id
            if self._pools and (pool := self._pools.get(key, model_id)) != model_id:
                pools[key] = pool
            rate = 1 / max(period_s, _SHORTEST_S)
            if self._flood_rates and (flood_rate := self._flood_rates.get((client_id, pool), 0.0)) > rate:
                rate = flood_rate if is_behind(client_id) else rate
            if (asked := of_pool.get(pool)) is None:
                asked = of_pool[pool] = groups.setdefault(min(self._availability.colocated_models(pool)), [])
            asked.append(RateRequest(client_id, pool, rate, *known, model_id))
            if not number % STEP:
                yield
        self._weights, self._pools = weights, pools
        return groups

    def _find_floods(self, asked: Sequence[RateRequest], due: Mapping[RateRequest, float]) -> None:
        """Sets the paces of those clients of a device that flood it."""
        parts = [request.per_second / due[request] for request in asked]
        if not parts or max(parts) <= FLOOD:
            return
        rates = sorted(request.per_second / request.weight for request in asked)
        modest = rates[int(MODEST * len(rates))]
        enough = sum(part <= 1 for part in parts) >= MODEST * len(parts)
        for request, part in zip(asked, parts, strict=True):
            if part > FLOOD and (enough or request.per_second / request.weight > FAR * modest):
                key = request.client_id, request.model_id
                self._paces_s[key], self._flood_rates[key] = 1 / due[request], request.per_second

    def _beyond_share(
        self,
        asked: Sequence[RateRequest],
        due: Mapping[RateRequest, float],
        factor: float,
        pause_s: Callable[[str, str], float],
    ) -> Generator[None, None, set[tuple[str, str]]]:
        """Returns the clients of a device that would ask for more than their share, were they never kept waiting.

        A robot that is kept waiting for longer than its period asks again at once, and counts as one of them, too.
        None where no client would ask for much more. Where less is shared for the sake of clients that wait beside a
        flood (`factor`), these ask for no more than their share by that.
        """
        calls_s = {
            model_id: min(slot.profile.typical(1) for slot in self._availability.slots(model_id))
            for model_id in {request.model_id for request in asked}
        }
        parts = []
        for number, request in enumerate(asked, start=1):
            least_s = pause_s(request.client_id, request.asked_id) + calls_s[request.model_id]
            share = due[request] / factor
            parts.append(max(request.per_second, 1 / max(least_s, _SHORTEST_S)) / share)
            if not number % STEP:
                yield
        if max(parts, default=0.0) <= BEYOND:
            return set()
        return {(one.client_id, one.model_id) for one, part in zip(asked, parts, strict=True) if part > 1}

    def _adjust(self, groups: Mapping[str, list[RateRequest]], pressed: Collection[str]) -> None:
        """Shares less of a model while a flood keeps others waiting, and more again in time."""
        held = {model_id for _, model_id in self._paces_s}
        factors = {}
        for group, asked in groups.items():
            model_ids = {request.model_id for request in asked}
            factor = self._factors.get(group, 1.0)
            if not model_ids.isdisjoint(held):
                factor = max(factor * FALL, _LEAST) if not model_ids.isdisjoint(pressed) else factor * _REGAIN
                factors[group] = min(factor, 1.0)
        self._factors = factors

    def _plan(self, requests: Sequence[RateRequest]) -> Mapping[RateRequest, float]:
        """Returns the answers per second that each request is due; {} where none is limited."""
        costs = {model_id: self._cost_s(model_id) for model_id in {request.model_id for request in requests}}
        asked = sum(request.per_second * costs[request.model_id] for request in requests)
        if asked > UTILISATION:
            return dict(zip(requests, planned(requests, costs, self._classes, UTILISATION), strict=True))
        rise = min(RISE, UTILISATION / asked if asked > 0 else RISE)
        before = [self._planned.get((request.client_id, request.model_id), math.inf) for request in requests]
        if all(rate * rise > _FREE * request.per_second for request, rate in zip(requests, before, strict=True)):
            return {}
        return {request: rate * rise for request, rate in zip(requests, before, strict=True) if rate < math.inf}

    def _level(self, group: str, requests: Sequence[RateRequest]) -> float:
        utilisation = UTILISATION * self._factors.get(group, 1.0)
        costs = {model_id: self._cost_s(model_id) for model_id in {request.model_id for request in requests}}
        asked = sum(request.per_second * costs[request.model_id] for request in requests)
        if asked > utilisation:
            rows = [(request.per_second, request.weight, costs[request.model_id]) for request in requests]
            return filled(rows, utilisation)
        level = self._levels.get(group, math.inf) * min(RISE, utilisation / asked if asked > 0 else RISE)
        return math.inf if all(level * request.weight > _FREE * request.per_second for request in requests) else level

    def _cost_s(self, model_id: str) -> float:
        """Returns the seconds that one answer takes all replicas together, in the best batches seen."""
        per_second = sum(
            max(slot.profile.rate(size) for size in range(1, min(slot.max_batch_size, slot.profile.explored()) + 1))
            for slot in self._availability.slots(model_id)
        )
        return 1.0 / per_second
