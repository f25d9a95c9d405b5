"""What runs now: waiting requests met with the free slots of their models.

No I/O, no thread, no event loop and no clock: events and the time go in, batches and the time of the next look come
out. The server drives it, and so can a simulator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inferential.scheduler.admission import Admission
from inferential.scheduler.base import Scheduler
from inferential.scheduler.request import InferenceRequest

if TYPE_CHECKING:
    from inferential.config.schema import SchedulingConfig


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one model takes.

    Attributes:
        max_inflight: calls that may run at once.
        max_batch_size: requests in one call.
    """

    max_inflight: int
    max_batch_size: int


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Requests of one model that run in one call."""

    model_id: str
    requests: list[InferenceRequest]


class Engine:
    """Decides what is dispatched.

    Args:
        config: limits of the queue.
        scheduler: the order.
        capacity: what a model takes, asked anew at every decision.
    """

    def __init__(self, config: SchedulingConfig, scheduler: Scheduler, capacity: Callable[[str], Capacity]) -> None:
        self._admission = Admission(config, scheduler)
        self._capacity = capacity
        self._running: dict[str, set[Batch]] = {}

    @property
    def scheduler(self) -> Scheduler:
        """The strategy in charge."""
        return self._admission.scheduler

    def waiting(self, model_id: str | None = None) -> int:
        """How many requests wait, for one model or for all."""
        return len(self._admission) if model_id is None else self._admission.waiting(model_id)

    def running(self) -> list[InferenceRequest]:
        """The requests that are dispatched."""
        return [request for batches in self._running.values() for batch in batches for request in batch.requests]

    def inflight(self, model_id: str) -> int:
        """How many calls of a model run."""
        return len(self._running.get(model_id, ()))

    def ended(self) -> list[InferenceRequest]:
        """The requests that were refused since it was last asked."""
        return self._admission.ended()

    def offer(self, request: InferenceRequest, now: float) -> None:
        """A request came in."""
        self._admission.offer(request, now)

    def work(self, now: float) -> list[Batch]:
        """What is to be dispatched now."""
        batches: list[Batch] = []
        for model_id in self._admission.models():
            capacity = self._capacity(model_id)
            running = self._running.setdefault(model_id, set())
            while len(running) < capacity.max_inflight:
                requests = self._admission.take(model_id, capacity.max_batch_size, now)
                if not requests:
                    break
                batch = Batch(model_id, requests)
                running.add(batch)
                batches.append(batch)
            if not running:
                del self._running[model_id]
        return batches

    def finished(self, batch: Batch) -> None:
        """A call of a model ended, one way or another; its slot is free."""
        running = self._running[batch.model_id]
        running.discard(batch)
        if not running:
            del self._running[batch.model_id]

    def retry(self, request: InferenceRequest, now: float) -> None:
        """A dispatched request is to be tried again."""
        request.retry_count += 1
        self._admission.retry(request, now)

    def expire(self, now: float) -> None:
        """Time went by."""
        self._admission.expire(now)

    def wake_at(self) -> float | None:
        """When to call `expire` and `work` next if nothing else happens; None: no need."""
        times = [at for model_id in self._admission.models() if (at := self._ready_at(model_id)) is not None]
        expiry = self._admission.expires_at()
        if expiry is not None:
            times.append(expiry)
        return min(times, default=None)

    def _ready_at(self, model_id: str) -> float | None:
        """When a model that has a free slot has something to do with it; a busy one waits for `finished`."""
        if self.inflight(model_id) >= self._capacity(model_id).max_inflight:
            return None
        return self._admission.ready_at(model_id)

    def client_connected(self, client_id: str) -> None:
        """A client was seen for the first time."""
        self._admission.client_connected(client_id)

    def client_gone(self, client_id: str, now: float) -> None:
        """A client will read no more answers: what it has waiting goes."""
        self._admission.forget(client_id, now)

    def swap(self, config: SchedulingConfig, scheduler: Scheduler, now: float) -> None:
        """Another strategy takes over, with all that waits."""
        self._admission.swap(config, scheduler, now)

    def clear(self, reason: str, cause: str, now: float) -> None:
        """Refuses all that waits."""
        self._admission.clear(reason, cause, now)
