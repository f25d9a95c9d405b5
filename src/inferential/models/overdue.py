"""When robots cannot wait for a call any longer that another version can answer. No I/O and no clock."""

from __future__ import annotations

import math

from inferential.scheduler.running import Batch
from inferential.scheduler.time.profile import LatencyProfile

LEAST_S = 0.05
"""No call is overdue before: a pause of the system is no fault of a version."""
MOST_S = 1.0
"""So long waits a robot at most whose deadline is later, unless calls take as long."""
MUCH_LONGER = 5.0
"""Times the usual latency."""


def overdue_at(batch: Batch, own: LatencyProfile, other: LatencyProfile) -> float:
    """Returns when another version is to be given the requests of a call; infinity where its latency is not known.

    That is when they can just be in time there. It is not before the call has run for much longer than is usual in
    either version: one that is slower every time is judged by `abort`.

    Args:
        batch: the call, which runs.
        own, other: latencies of its replica, and of the other version.
    """
    if not other.known:
        return math.inf
    rows = len(batch.requests)
    elsewhere_s = other.typical(rows)
    own_s = own.typical(rows) if own.warm else 0.0
    too_long_at = batch.started_at + max(LEAST_S, MUCH_LONGER * max(elsewhere_s, own_s))
    in_time_at = min(request.deadline for request in batch.requests) - elsewhere_s
    return max(too_long_at, min(in_time_at, batch.started_at + MOST_S))
