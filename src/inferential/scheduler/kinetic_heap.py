"""Lanes whose order changes with time: by the built-in score, exact and cheap, or by a policy called for each request.

The score itself is in `score`.

Theory of operation. Scores of waiting requests grow, at different rates, so a heap ordered when they were queued is
wrong when one is taken. But each score is piecewise linear in time, and two requests of equal slope keep their
order for as long as both keep it. So there is one heap for each slope, ordered by the lines' values at time 0, and one
heap of the instants at which requests change slope. To take the best: move those whose instant has come to the heap
of their new slope (at most three moves in a request's life), then compare the tops of the heaps as they stand now.

There are as many slopes as distinct latency budgets, times two (overdue or not), plus two. Fleets have a few; with all
budgets distinct, a take degrades to one multiplication and comparison for each waiting request.
(Kinetic data structures: Basch, Guibas, Hershberger, "Data structures for mobile data", SODA 1997.)
"""

from __future__ import annotations

import heapq
import math
from abc import abstractmethod

from inferential.scheduler.heap import LazyHeap
from inferential.scheduler.lanes import Lane
from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.score import GuardedPolicy, Weights, line_of, score_of, standing_of

TIE = 1e-6
"""Scores that lie closer are equal, and the first to arrive goes first. It is worth 2 ns of being overdue; the floats
that lines are made of are finer than that for the first months that a machine is up."""


class ScoredLane(Lane):
    """A lane that serves the highest score first and writes it into `request.score` at push and at take."""

    __slots__ = ()

    @abstractmethod
    def best(self, now: float) -> InferenceRequest:
        """Returns the next to be served, which stays, with its score updated; the lane must not be empty."""


class KineticLane(ScoredLane):
    """Serves the highest built-in score first, as it is at the time of taking."""

    __slots__ = ("_by_slope", "_changes", "_now", "_slopes", "_weights")

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._by_slope: dict[float, LazyHeap[InferenceRequest]] = {}  # by slope; none is empty
        self._slopes: dict[InferenceRequest, tuple[float, float]] = {}  # and the part of the score that stays
        self._changes: LazyHeap[InferenceRequest] = LazyHeap()
        self._now = -math.inf

    def __len__(self) -> int:
        return len(self._slopes)

    def push(self, request: InferenceRequest, now: float) -> None:
        self._now = max(self._now, now)
        standing = standing_of(request, self._weights)
        request.score = score_of(request, now, self._weights, standing)
        self._enter(request, now, standing)

    def discard(self, request: InferenceRequest) -> None:
        self._leave(request)
        self._changes.discard(request)

    def entries(self) -> int:
        """Returns the size in memory: rows in all tables; 0 for an empty lane."""
        return len(self._slopes) + len(self._by_slope) + len(self._changes)

    def best(self, now: float) -> InferenceRequest:
        self._advance(now)
        best = -math.inf
        tops: list[tuple[float, InferenceRequest]] = []
        for slope, heap in self._by_slope.items():
            value, request = heap.top()
            score = slope * now - value
            if score >= best - TIE:
                tops.append((score, request))
                best = max(best, score)
        equals = [request for score, request in tops if score >= best - TIE]
        first = min(equals, key=_arrival) if len(equals) > 1 else equals[0]
        first.score = score_of(first, now, self._weights, self._slopes[first][1])
        return first

    def take(self, limit: int, now: float) -> list[InferenceRequest]:
        taken: list[InferenceRequest] = []
        while self._slopes and len(taken) < limit:
            request = self.best(now)
            self.discard(request)
            taken.append(request)
        return taken

    def _advance(self, now: float) -> None:
        if now < self._now:  # the clock was set back, as only tests and replays do: begin anew
            waiting = self._slopes
            self._by_slope, self._slopes, self._changes = {}, {}, LazyHeap()
            for request, (_, standing) in waiting.items():
                self._enter(request, now, standing)
        self._now = now
        while self._changes:
            at, request = self._changes.top()
            if at > now:
                break
            self._changes.pop()
            self._enter(request, now, self._leave(request))

    def _enter(self, request: InferenceRequest, now: float, standing: float) -> None:
        slope, value, until = line_of(request, now, self._weights, standing)
        heap = self._by_slope.get(slope)
        if heap is None:
            heap = self._by_slope[slope] = LazyHeap()
        heap.push(request, -value, request.arrival)
        self._slopes[request] = slope, standing
        if until < math.inf:
            self._changes.push(request, until)

    def _leave(self, request: InferenceRequest) -> float:
        """Takes a request out of the heap of its slope; returns the part of its score that stays."""
        slope, standing = self._slopes.pop(request)
        heap = self._by_slope[slope]
        heap.discard(request)
        if not heap:
            del self._by_slope[slope]
        return standing


class PolicyLane(ScoredLane):
    """Serves the highest score of a policy first, as it is at the time of taking; ties in order of arrival.

    A policy may read anything, the clock included, so every waiting request is asked at every take: O(n).
    """

    __slots__ = ("_policy", "_waiting")

    def __init__(self, policy: GuardedPolicy) -> None:
        self._policy = policy
        self._waiting: dict[InferenceRequest, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, request: InferenceRequest, now: float) -> None:
        request.score = self._policy(request, now)
        self._waiting[request] = None

    def discard(self, request: InferenceRequest) -> None:
        del self._waiting[request]

    def best(self, now: float) -> InferenceRequest:
        self._ask(now)
        return min(self._waiting)

    def take(self, limit: int, now: float) -> list[InferenceRequest]:
        self._ask(now)
        taken = heapq.nsmallest(limit, self._waiting)
        for request in taken:
            del self._waiting[request]
        return taken

    def _ask(self, now: float) -> None:
        for request in self._waiting:
            request.score = self._policy(request, now)


def _arrival(request: InferenceRequest) -> int:
    return request.arrival
