"""What a strategy may know of the models' time: their replicas, how long calls take, when the next one can begin.

It is told by whoever runs the calls (the engine); a strategy that is used alone sees `ALWAYS_AVAILABLE`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from inferential.scheduler.time.profile import LatencyProfile

ANY_BATCH_SIZE = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ReplicaSlot:
    """One replica of a model, as far as its next call is concerned.

    Attributes:
        model_id: whose.
        replica: its name; "" where a model has only one.
        max_batch_size: rows that a call takes.
        profile: how long calls take on it.
        free_at: seconds of `time.monotonic()` at which it is expected to take a call; -inf: it does now.
    """

    model_id: str
    replica: str
    max_batch_size: int
    profile: LatencyProfile
    free_at: float = -math.inf

    def finish(self, now: float, rows: int) -> float:
        """When a call of so many rows, begun as soon as it can be, is over by the high quantile."""
        return max(now, self.free_at) + self.profile.high(rows)

    def expected_finish(self, now: float, rows: int) -> float:
        """The same by the median."""
        return max(now, self.free_at) + self.profile.typical(rows)


class Availability(Protocol):
    """What is known of the time to come."""

    def slots(self, model_id: str) -> Sequence[ReplicaSlot]:
        """The replicas of a model; at least one."""
        ...

    def colocated_models(self, model_id: str) -> Sequence[str]:
        """The models that run on the same device, of which it takes one call at a time; the model itself included."""
        ...


class AlwaysAvailable:
    """Nothing is known: every model has one replica that is free and of unknown speed."""

    def slots(self, model_id: str) -> Sequence[ReplicaSlot]:
        return (ReplicaSlot(model_id, "", ANY_BATCH_SIZE, LatencyProfile()),)

    def colocated_models(self, model_id: str) -> Sequence[str]:
        return (model_id,)


ALWAYS_AVAILABLE = AlwaysAvailable()
