"""Plans the next calls of a model that has one replica for itself, over what waits and what is expected.

Near its limit such a model gains by a glance ahead: whether a call had better wait for the request that comes in some
milliseconds, take fewer rows so that it is free in time, or leave one out that would cost others. Requests are planned
in order of their deadlines; a call takes some in a row of these, and leaves out at most a few before them. Of schedules
that have handled the same requests the few best are kept: none is kept that is free later than one with as many
answers in time. The best one in the end answers most, less what could be answered in the time that it takes longer.

No state and no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LEFT_OUT = 2  # requests in a row that a call may leave out
_KEPT = 4  # schedules for as many requests handled


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


def next_call(requests: Sequence[Planned], free_at: float, latency_s: Sequence[float]) -> PlannedCall | None:
    """Returns the first call of the best schedule found; None where none of the requests can be answered in time.

    Args:
        requests: in order of their deadlines.
        free_at: when the replica is free.
        latency_s: of calls of 1, 2, ... rows.
    """
    found = _best(requests, free_at, latency_s)
    return None if found is None else found[1]


def _best(requests: Sequence[Planned], free_at: float, latency_s: Sequence[float]) -> tuple[float, PlannedCall] | None:
    count = len(requests)
    per_second = max(rows / takes_s for rows, takes_s in enumerate(latency_s, 1))
    last_arrival = max([free_at, *(request.arrives_at for request in requests)])
    reached: list[list[tuple[float, int, PlannedCall | None]]] = [[] for _ in range(count + 1)]
    reached[0].append((free_at, 0, None))
    best: tuple[float, float, PlannedCall] | None = None
    for handled in range(count):
        for begins_at, answered, call in _efficient(reached[handled]):
            for first in range(handled, min(handled + _LEFT_OUT + 1, count)):
                starts_at, deadline = begins_at, requests[first].deadline
                for rows, takes_s in enumerate(latency_s, 1):
                    if first + rows > count:
                        break
                    starts_at = max(starts_at, requests[first + rows - 1].arrives_at)
                    ends_at = starts_at + takes_s
                    if ends_at > deadline:
                        break
                    begun = call or PlannedCall(starts_at, first, rows)
                    reached[first + rows].append((ends_at, answered + rows, begun))
                    value = answered + rows - max(ends_at - last_arrival, 0.0) * per_second
                    if best is None or (value, -ends_at) > best[:2]:
                        best = value, -ends_at, begun
    return None if best is None else (best[0], best[2])


def _efficient(
    found: list[tuple[float, int, PlannedCall | None]],
) -> list[tuple[float, int, PlannedCall | None]]:
    """Returns the schedules of which no other is free as soon with as many answers; those with the most answers."""
    found.sort(key=lambda one: (one[0], -one[1]))
    kept: list[tuple[float, int, PlannedCall | None]] = []
    for one in found:
        if not kept or one[1] > kept[-1][1]:
            kept.append(one)
    return kept[-_KEPT:]
