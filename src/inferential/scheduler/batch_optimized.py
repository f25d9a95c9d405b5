"""`batch_optimized`: full batches of one model, or what there is after a bounded wait.

Who is in a batch goes by age alone.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from inferential.scheduler.base import register_scheduler
from inferential.scheduler.heap import LazyHeap
from inferential.scheduler.lanes import Lane
from inferential.scheduler.queued import QueueScheduler
from inferential.scheduler.request import InferenceRequest

if TYPE_CHECKING:
    from inferential.config.schema import SchedulingConfig


@register_scheduler("batch_optimized")
class BatchOptimizedScheduler(QueueScheduler["BatchLane"]):
    """Releases a model's requests when a full batch waits or the oldest has waited `max_wait_ms`."""

    strategy = "batch_optimized"

    def __init__(self, config: SchedulingConfig) -> None:
        super().__init__(config)
        self._max_wait_s = config.batch_optimized.max_wait_ms / 1000
        self.unit: int = config.batch_optimized.max_batch_size
        self.window: int | None = self.unit

    def new_lane(self) -> BatchLane:
        return BatchLane(self.unit, self._max_wait_s)

    def next_batch(self) -> list[InferenceRequest]:
        """Removes and returns a batch of the model that has been ready longest; empty if none is ready."""
        now = time.monotonic()
        ready_at, model_id = min(
            ((lane.ready_at(now), model_id) for model_id, lane in self._lanes.items()), default=(math.inf, "")
        )
        return self.next_batch_for_model(model_id) if ready_at <= now else []

    def status(self) -> dict[str, Any]:
        """Returns what every strategy does, and the limits of a batch."""
        return super().status() | {"max_batch_size": self.unit, "max_wait_ms": self._max_wait_s * 1000}


class BatchLane(Lane):
    """Serves first come, first served, but nothing before a batch is full or has waited long enough."""

    __slots__ = ("_batch", "_full_since", "_heap", "_max_wait_s")

    def __init__(self, batch: int, max_wait_s: float) -> None:
        self._heap: LazyHeap[InferenceRequest] = LazyHeap()  # by the instant since when a request waits
        self._batch = batch
        self._max_wait_s = max_wait_s
        self._full_since = math.inf

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, request: InferenceRequest, now: float) -> None:
        self._heap.push(request, min(request.waiting_since, now), request.arrival)
        if len(self._heap) == self._batch:
            self._full_since = now

    def discard(self, request: InferenceRequest) -> None:
        self._heap.discard(request)

    def take(self, limit: int, now: float) -> list[InferenceRequest]:
        if self.ready_at(now) > now:
            return []
        batch = [self._heap.pop() for _ in range(min(limit, self._batch, len(self._heap)))]
        self._full_since = now  # what is left, if it is a full batch, is one since now
        return batch

    def ready_at(self, now: float) -> float:
        waited_out = self._heap.top()[0] + self._max_wait_s
        return min(waited_out, self._full_since, now) if len(self._heap) >= self._batch else waited_out
