"""The built-in score of a waiting request, as a value at one instant and as a straight line over time.

`kinetic_heap` orders requests by it.

The score is how much a robot needs an answer now:

    cadence_weight  * (seconds overdue by the client's learned cadence, or `overdue_after_s`) / 0.1
    urgency_weight  * urgency
    steps_weight    * (1, 0.7, 0.4 with 0, at most 2, at most 4 steps remaining)
    priority_weight * (10 - min(priority, 10)) / 10
    age_weight      * min(age / latency budget, 1)

Overdue time and age grow while a request waits, so the score is piecewise linear: its slope changes when the age
begins to count, when the latency budget is used up, and when the client becomes overdue.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inferential.scheduler.base import Policy
from inferential.scheduler.request import InferenceRequest

if TYPE_CHECKING:
    from inferential.config.schema import DeadlineAwareConfig

log: logging.Logger = logging.getLogger("inferential.scheduler")

ASIDE_S = 2.0
"""For how long a request of a client that floods (`time.fair_share`) lets those of the others go first: its score is
less by what so many seconds overdue are worth. Its cadence is so short that it would be overdue, and first, at once."""
AFTER_S = 1.0
"""The same of a client that would ask for more than its share and floods nothing."""
# A latency budget comes from the client. Shorter ones count as this, so that no slope is infinite.
_MIN_BUDGET_MS = 0.001


@dataclass(frozen=True, slots=True)
class Weights:
    """What each part of the score is worth; `overdue_per_s` for each second overdue."""

    overdue_per_s: float
    urgency: float
    steps: float
    priority: float
    age: float

    @classmethod
    def of(cls, options: DeadlineAwareConfig) -> Weights:
        """Returns the weights that the options have now."""
        return cls(
            overdue_per_s=options.cadence_weight / 0.1,
            urgency=options.urgency_weight,
            steps=options.steps_weight,
            priority=options.priority_weight,
            age=options.age_weight,
        )


def score_of(request: InferenceRequest, now: float, weights: Weights, standing: float | None = None) -> float:
    """Returns the score at the instant `now`; `standing` is what `standing_of` returns, where that is known."""
    score = standing_of(request, weights) if standing is None else standing
    waited = now - request.waiting_since
    overdue = waited - _due_in_s(request)
    if overdue > 0:
        score += weights.overdue_per_s * overdue
    if waited > 0:
        score += weights.age * min(waited / _budget_s(request), 1.0)
    return score


def line_of(
    request: InferenceRequest, now: float, weights: Weights, standing: float | None = None
) -> tuple[float, float, float]:
    """Returns the line that the score follows from `now` on: slope in 1/s, value at time 0, and until when.

    All that goes into slope and value are the request's own numbers, never `now`: requests that are alike have
    exactly the same line, whenever it is computed.
    """
    slope, value, until = 0.0, standing_of(request, weights) if standing is None else standing, math.inf
    due = request.waiting_since + _due_in_s(request)
    if now >= due:
        slope += weights.overdue_per_s
        value -= weights.overdue_per_s * due
    elif due < until:
        until = due
    begins, budget_s = request.waiting_since, _budget_s(request)
    spent = begins + budget_s
    if now >= spent:
        value += weights.age
    elif now >= begins:
        growth = weights.age / budget_s
        slope += growth
        value -= growth * begins
        until = min(until, spent)
    else:
        until = min(until, begins)
    return slope, value, until


def standing_of(request: InferenceRequest, weights: Weights) -> float:
    """Returns the part that does not change while the request waits."""
    score = weights.priority * (10 - min(request.priority, 10)) / 10
    if request.floods:
        score -= weights.overdue_per_s * ASIDE_S
    elif request.goes_aside:
        score -= weights.overdue_per_s * AFTER_S
    if request.urgency == request.urgency:  # not NaN
        score += weights.urgency * request.urgency
    steps = request.steps_remaining
    if steps is None or steps > 4:
        return score
    if steps > 2:
        return score + weights.steps * 0.4
    return score + weights.steps * (0.7 if steps > 0 else 1.0)


def _due_in_s(request: InferenceRequest) -> float:
    return min(request.overdue_after_s, request.time_until_next)  # in this order NaN counts as unknown


def _budget_s(request: InferenceRequest) -> float:
    return max(_MIN_BUDGET_MS, request.latency_budget_ms) / 1000  # in this order NaN counts as the minimum


class GuardedPolicy:
    """Wraps a user's policy: where it fails, the built-in score is used instead.

    The policy sees `request.time_until_next` as it is when it is called, negative once the client is overdue. Its first
    failure is logged with its traceback, later ones are not: it is called for every waiting request.
    """

    __slots__ = ("_failed", "_policy", "_weights", "name")

    def __init__(self, name: str, policy: Policy, weights: Weights) -> None:
        self.name: str = name
        self._policy = policy
        self._weights = weights
        self._failed = False

    def __call__(self, request: InferenceRequest, now: float) -> float:
        """Returns the policy's score; the built-in score at `now` if it raises or returns no number.

        The policy sees the `time_until_next` of `now`: negative once the client is overdue, 0 while its cadence is
        unknown. The request itself keeps the value of its arrival, which the built-in score counts from.
        """
        at_arrival = request.time_until_next
        if at_arrival:
            request.time_until_next = at_arrival - (now - request.received_at)
        try:
            score = float(self._policy(request))
            if score == score:  # not NaN
                return score
            raise ValueError("the score is NaN")
        except Exception:
            if not self._failed:
                self._failed = True
                log.exception("policy %r failed; the built-in score stands in where it does", self.name)
        finally:
            request.time_until_next = at_arrival
        return score_of(request, now, self._weights)
