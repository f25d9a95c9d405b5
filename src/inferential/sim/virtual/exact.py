"""Finds the best schedule of a handful of requests by trying all.

For more there is `virtual.bound`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations

from inferential.sim.virtual.world import Arrival, ModelSpec

MOST_REQUESTS = 8


def most_in_time(models: Sequence[ModelSpec], arrivals: Sequence[Arrival]) -> int:
    """Returns the most arrivals that any schedule answers by their deadline; calls take exactly `latency_s`.

    A schedule is a sequence of calls, each of requests of one model on one replica, begun as soon as the replica is
    free and its last request is there: to begin later, or to run a request that will be late, helps no request.

    Raises:
        ValueError: for more than MOST_REQUESTS arrivals, or calls that may run at once on one replica.
    """
    if len(arrivals) > MOST_REQUESTS:
        raise ValueError(f"arrivals: expected at most {MOST_REQUESTS}, got {len(arrivals)}")
    if any(model.max_inflight != 1 for model in models):
        raise ValueError("max_inflight: expected 1")
    machines, places = _machines(models)
    by_model = {
        model.model_id: [number for number, arrival in enumerate(arrivals) if arrival.model_id == model.model_id]
        for model in models
    }

    @cache
    def best(free: tuple[float, ...], left: frozenset[int]) -> int:
        most = 0
        for model in models:
            there = [number for number in by_model[model.model_id] if number in left]
            for rows in range(1, min(len(there), model.max_batch_size) + 1):
                for batch in combinations(there, rows):
                    for machine, speed in places[model.model_id]:
                        begins = max(free[machine], *(arrivals[number].at for number in batch))
                        ends = begins + model.latency_s[rows - 1] / speed
                        if ends <= min(arrivals[number].deadline for number in batch) + 1e-9:
                            after = (*free[:machine], ends + model.turnaround_s, *free[machine + 1 :])
                            most = max(most, rows + best(after, left.difference(batch)))
        return most

    return best((0.0,) * machines, frozenset(range(len(arrivals))))


def _machines(models: Sequence[ModelSpec]) -> tuple[int, dict[str, list[tuple[int, float]]]]:
    """Returns how many calls can run at once, and by model the places that it may run in, with their speed."""
    devices: dict[str, int] = {}
    places: dict[str, list[tuple[int, float]]] = {}
    count = 0
    for model in models:
        if model.device is None:
            places[model.model_id] = [(count + number, speed) for number, speed in enumerate(model.speeds)]
            count += len(model.speeds)
            continue
        if model.device not in devices:
            devices[model.device] = count
            count += 1
        places[model.model_id] = [(devices[model.device], max(model.speeds))]
    return count, places
