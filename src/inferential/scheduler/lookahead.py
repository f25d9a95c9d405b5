"""Plans the next calls of a model that has one replica for itself, over what waits and what is expected.

Near its limit such a model gains by a glance ahead: whether a call had better wait for the request that comes in some
milliseconds, take fewer rows so that it is free in time, or leave one out that would cost others. Requests are planned
in order of their deadlines; a call takes some in a row of these, and leaves out at most one before them that could be
in time. Of schedules
that have handled the same requests the few best are kept: none is kept that is free later than one with as many
answers in time. The best one in the end answers most, less what could be answered in the time that it takes longer.

No state and no clock.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

_LEFT_OUT = 1  # requests before a call's first that it may leave out though they could be in time
_KEPT = 3  # schedules for as many requests handled


@dataclass(frozen=True, slots=True)
class Planned:
    """A request that waits, or one that is expected.

    Attributes:
        arrives_at: when it is there, in seconds of `time.monotonic()`; in the past where it waits.
        deadline: when its answer is needed.
    """

    arrives_at: float
    deadline: float


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """The first call of a plan.

    Attributes:
        begins_at: when its last request is there, and its replica free.
        first: place of the first of its requests among those planned, which are in order of their deadlines.
        rows: how many of them, from there on, it takes.
    """

    begins_at: float
    first: int
    rows: int


_Schedule = tuple[float, int, tuple[float, int, int] | tuple[()]]
"""When the replica is free again, how many are answered in time (negative, so that the most come first), and when the
first call begins, its first request and its rows; () before that."""


def next_call(requests: Sequence[Planned], free_at: float, latency_s: Sequence[float]) -> PlannedCall | None:
    """Returns the first call of the best schedule found; None where none of the requests can be answered in time.

    Args:
        requests: in order of their deadlines.
        free_at: when the replica is free.
        latency_s: of calls of 1, 2, ... rows.
    """
    count, per_second = len(requests), max(rows / takes_s for rows, takes_s in enumerate(latency_s, 1))
    arrives_at = [request.arrives_at for request in requests]
    deadlines = [request.deadline for request in requests]
    last_arrival = max(arrives_at, default=free_at)
    reached: list[list[_Schedule]] = [[] for _ in range(count + 1)]  # by how many requests are handled
    reached[0].append((free_at, 0, ()))
    most, best = -math.inf, None
    for handled, found in enumerate(reached):
        for begins_at, unanswered, call in _efficient(found):
            value = -unanswered - max(begins_at - last_arrival, 0.0) * per_second
            if call and value > most:
                most, best = value, call
            # Those that no call could answer in time any more are left out besides: they come first.
            earliest = bisect_left(deadlines, begins_at + latency_s[0], handled)
            for first in range(earliest, min(earliest + _LEFT_OUT + 1, count)):
                starts_at, deadline, following = begins_at, deadlines[first], first
                for takes_s in latency_s[: count - first]:
                    if arrives_at[following] > starts_at:
                        starts_at = arrives_at[following]
                    ends_at = starts_at + takes_s
                    if ends_at > deadline:
                        break
                    following += 1
                    rows = following - first
                    reached[following].append((ends_at, unanswered - rows, call or (starts_at, first, rows)))
    return None if best is None else PlannedCall(*best)


def _efficient(found: list[_Schedule]) -> list[_Schedule]:
    """Returns the schedules of which no other is free as soon with as many answers; those with the most answers."""
    found.sort()
    kept: list[_Schedule] = []
    for one in found:
        if not kept or one[1] < kept[-1][1]:
            kept.append(one)
    return kept[-_KEPT:]
