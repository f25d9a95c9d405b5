"""What `slo_aware` knows of one model beside its queue, and the batch size that its load needs.

It orders nothing and has no clock.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence

from inferential.scheduler.time.availability import ReplicaSlot
from inferential.scheduler.time.demand import Demand

_MAX_UNSERVED = 4096  # clients of a model; beyond it, those remembered longest are forgotten


def smallest_sufficient(
    slots: Sequence[ReplicaSlot], colocated_models: Sequence[tuple[float, Sequence[ReplicaSlot]]], utilisation: float
) -> int:
    """The smallest batch size at which all that is asked of a device is carried.

    Args:
        slots: of the model whose batch it is.
        colocated_models: of each model on the device, this one included, what is asked per second and its slots.
        utilisation: the share of the time that may be planned.

    Returns:
        The largest size worth trying where none suffices.
    """
    largest = max(min(slot.max_batch_size, slot.profile.explored()) for slot in slots)

    def load(size: int) -> float:
        return sum(
            per_second / sum(slot.profile.rate(min(size, slot.max_batch_size)) for slot in theirs)
            for per_second, theirs in colocated_models
        )

    if load(1) <= utilisation:
        return 1
    if load(largest) > utilisation:
        return largest
    # Larger batches carry more, so that the sizes which do not suffice come first.
    return bisect_left(range(1, largest), True, key=lambda size: load(size) <= utilisation) + 1


class ModelState:
    """What is remembered of a model, whether anything waits for it or not.

    Args:
        calls_since_late: with how many calls it begins since the last one for a late client.
    """

    __slots__ = (
        "called_at",
        "calls_since_late",
        "demand",
        "empty_until",
        "needed",
        "needed_since",
        "overloaded_at",
        "unserved",
    )

    def __init__(self, calls_since_late: int) -> None:
        self.demand = Demand()
        self.overloaded_at = -math.inf
        self.called_at = -math.inf
        self.calls_since_late = calls_since_late
        self.needed = 1
        self.needed_since = -math.inf
        self.empty_until: dict[str, float] = {}
        """By replica, until when its next call would stay empty: all that waits was left to other replicas."""
        self.unserved: OrderedDict[str, float] = OrderedDict()
        """Clients whose last request ended unserved, and since when they wait for an answer."""

    def note_unserved(self, client_id: str, since: float) -> None:
        """A client has nothing waiting any more, and got no answer."""
        self.unserved[client_id] = since
        if len(self.unserved) > _MAX_UNSERVED:
            self.unserved.popitem(last=False)
