"""When models are available: their replicas, how long calls take on each, and when each can begin the next.

The engine, which knows the running calls, provides it; a strategy that is used alone sees `ALWAYS_AVAILABLE`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from inferential.scheduler.time.profile import LatencyProfile

ANY_BATCH_SIZE = 2**31 - 1
FREE = -math.inf
"""When a replica is free that is free now."""


@dataclass(frozen=True, slots=True)
class ReplicaSlot:
    """One replica of a model, as a place for its next call.

    Attributes:
        model_id: the model.
        replica: the replica's name; "" where the model has only one.
        max_batch_size: the most requests in one call.
        profile: how long calls take on it.
        free_at: when it is expected to be free, in seconds of `time.monotonic()`; `FREE`: it is free now.
    """

    model_id: str
    replica: str
    max_batch_size: int
    profile: LatencyProfile
    free_at: float = FREE

    def finish(self, now: float, rows: int) -> float:
        """Returns when a call of `rows` requests, begun as soon as possible, ends by the high quantile."""
        return max(now, self.free_at) + self.profile.high(rows)

    def expected_finish(self, now: float, rows: int) -> float:
        """Returns the same by the median."""
        return max(now, self.free_at) + self.profile.typical(rows)


class Availability(Protocol):
    """When replicas can begin calls, and which models compete for them."""

    def slots(self, model_id: str) -> Sequence[ReplicaSlot]:
        """Returns the replicas of a model; at least one."""
        ...

    def colocated_models(self, model_id: str) -> Sequence[str]:
        """Returns the models on the same device, which runs one call of them at a time; the model itself included."""
        ...


class AlwaysAvailable:
    """An `Availability` for strategies without a server: each model has one free replica of unknown speed."""

    def slots(self, model_id: str) -> Sequence[ReplicaSlot]:
        """Returns one free replica."""
        return (ReplicaSlot(model_id, "", ANY_BATCH_SIZE, LatencyProfile()),)

    def colocated_models(self, model_id: str) -> Sequence[str]:
        """Returns the model alone."""
        return (model_id,)


ALWAYS_AVAILABLE = AlwaysAvailable()
