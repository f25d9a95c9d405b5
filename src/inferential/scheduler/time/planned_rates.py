"""Rates by class where more is asked than models carry: minimum rates first, then value.

As in ROSA (arXiv 2607.01088), written anew: every class is given its minimum rate; what is left goes, step by step, to
the class that gains most value per second of the accelerator. A step here is all that the class asks for, as the value
of one more answer does not fall with the rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LEAST_COST_S = 1e-9  # of a model whose latency is not known yet, which costs nothing
LEAST_RATE_HZ = 0.2
"""Answers a second that a robot of any class is due."""


@dataclass(slots=True, eq=False)
class RateRequest:
    """How often one client asks one model, per second, and the weight of its share; equal to itself only.

    Attributes:
        client_id, model_id: which client asks which model.
        per_second: how often.
        weight: of its share beside others of the same value, above 0.
        robot_class: the type that the client states.
        asked_id: the model as the client names it, of which `model_id` is the pool that answers it.
    """

    client_id: str
    model_id: str
    per_second: float
    weight: float
    robot_class: str = ""
    asked_id: str = ""


@dataclass(frozen=True, slots=True)
class ClassRate:
    """What robots of one class are due.

    Attributes:
        min_rate_hz: answers a second of each robot, before any robot gets more than its minimum.
        value: of an answer, above 0.
    """

    min_rate_hz: float = 0.0
    value: float = 1.0


PLAIN = ClassRate()


def planned(
    requests: Sequence[RateRequest],
    costs: Mapping[str, float],
    classes: Mapping[str, ClassRate],
    capacity: float,
) -> list[float]:
    """Returns how many answers a second each request is due, in their order; none gets more than it asks for.

    Where the minimum rates alone are more than the capacity, the largest are cut, weighted. LEAST_RATE_HZ is everyone's
    minimum, so that none waits for ever.

    Args:
        requests: what is asked.
        costs: by model, the seconds of the accelerator that an answer takes.
        classes: by name; others are PLAIN.
        capacity: seconds of the accelerator per second.
    """
    least = [
        min(one.per_second, max(classes.get(one.robot_class, PLAIN).min_rate_hz, LEAST_RATE_HZ)) for one in requests
    ]
    needed = sum(rate * costs[one.model_id] for rate, one in zip(least, requests, strict=True))
    if needed >= capacity:
        asked = [(rate, one.weight, costs[one.model_id]) for rate, one in zip(least, requests, strict=True)]
        level = filled(asked, capacity)
        return [min(rate, level * one.weight) for rate, one in zip(least, requests, strict=True)]
    rates, left = list(least), capacity - needed
    worth = [classes.get(one.robot_class, PLAIN).value / max(costs[one.model_id], _LEAST_COST_S) for one in requests]
    for value in sorted(set(worth), reverse=True):
        places = [place for place, one in enumerate(worth) if one == value]
        more = [
            (requests[place].per_second - least[place], requests[place].weight, costs[requests[place].model_id])
            for place in places
        ]
        level = filled(more, left)
        for place, (wanted, weight, cost) in zip(places, more, strict=True):
            given = min(wanted, level * weight)
            rates[place] += given
            left -= given * cost
    return rates


def filled(asked: Sequence[tuple[float, float, float]], capacity: float) -> float:
    """Returns the level at which serving min(rate, weight * level) of each takes the capacity; infinite: it takes less.

    Args:
        asked: rate, weight and cost of each.
        capacity: in the unit of rate times cost.
    """
    if sum(rate * cost for rate, _, cost in asked) <= capacity:
        return math.inf
    by_need = sorted(asked, key=lambda one: one[0] / one[1])
    left = max(capacity, 0.0)
    slope = sum(weight * cost for _, weight, cost in by_need)
    for rate, weight, cost in by_need:
        if slope * rate / weight >= left:
            break
        left -= rate * cost
        slope -= weight * cost
    return left / slope if slope > 0 else math.inf
