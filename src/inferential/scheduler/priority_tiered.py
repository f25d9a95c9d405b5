"""`priority_tiered`: the most important requests first, whatever that costs the others.

Within a tier it is first come, first served; lower tiers may starve.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from inferential.scheduler.base import register_scheduler
from inferential.scheduler.lanes import OrderedLane
from inferential.scheduler.queued import QueueScheduler
from inferential.scheduler.request import InferenceRequest

if TYPE_CHECKING:
    from inferential.config.schema import SchedulingConfig


@register_scheduler("priority_tiered")
class PriorityTieredScheduler(QueueScheduler[OrderedLane]):
    """Serves the lowest tier number first, first come, first served inside; a full queue drops from the last tier."""

    strategy = "priority_tiered"
    may_defer = False

    def __init__(self, config: SchedulingConfig) -> None:
        super().__init__(config)
        self._last_tier = config.priority_tiered.num_tiers - 1

    def eviction_rank(self, request: InferenceRequest) -> int:
        """Returns the request's tier."""
        return min(max(request.priority, 0), self._last_tier)

    def _order(self, request: InferenceRequest) -> tuple[float, ...]:
        return self.eviction_rank(request), request.waiting_since, request.arrival

    def new_lane(self) -> OrderedLane:
        return OrderedLane(self._order)

    def next_batch(self) -> list[InferenceRequest]:
        """Removes and returns the first request of the lowest tier over all models, alone."""
        if not self._lanes:
            return []
        first = min((lane.first() for lane in self._lanes.values()), key=self._order)
        self.remove(first)
        return [first]

    def status(self) -> dict[str, Any]:
        """Returns what every strategy does, and how many requests wait in each tier."""
        waiting = Counter(self.eviction_rank(request) for request in self._ages)
        return super().status() | {"tiers": [waiting[tier] for tier in range(self._last_tier + 1)]}
