"""What the built-in strategies share: size limit, time to live, departures and counts of waiting requests.

It has no order of its own: a strategy makes a lane for each model, and the lane orders that model's requests.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from inferential.scheduler.ages import Ages
from inferential.scheduler.base import ModelAwareScheduler, QueueFullError
from inferential.scheduler.heap import LazyHeap
from inferential.scheduler.lanes import Lane
from inferential.scheduler.request import InferenceRequest

if TYPE_CHECKING:
    from inferential.config.schema import SchedulingConfig

log: logging.Logger = logging.getLogger("inferential.scheduler")


LaneT = TypeVar("LaneT", bound=Lane)


class QueueScheduler(ModelAwareScheduler, Generic[LaneT]):
    """A strategy that keeps one lane for each model.

    A strategy states its name, makes lanes, and chooses among them in `next_batch`. The limits are those of the
    config, for use without a server; a server's `ClientQueues` apply them before a request comes here.

    Attributes:
        strategy: the name it is registered by.
        unit: how many requests of one model it serves at once where the caller sets no limit.
    """

    strategy: ClassVar[str]
    window: int | None = 1
    unit = 1

    def __init__(self, config: SchedulingConfig) -> None:
        self._max_queue_size = config.max_queue_size
        self._ttl_s = config.request_ttl_ms / 1000
        self._drops_oldest = config.overflow_policy == "drop_oldest"
        self._lanes: dict[str, LaneT] = {}
        self._ages = Ages()
        # Without ranks the first to expire is the first to be evicted, and one table tells both.
        ranked = type(self).eviction_rank is not ModelAwareScheduler.eviction_rank
        self._victims: LazyHeap[InferenceRequest] | None = LazyHeap() if ranked else None

    @abstractmethod
    def new_lane(self) -> LaneT:
        """Returns an empty lane."""

    # Coming

    def submit(self, request: InferenceRequest) -> None:
        """Takes a request; where the queue is full, drops the oldest one or raises, as `overflow_policy` says.

        Raises:
            QueueFullError: the queue is full, and the new request is not taken.
            ValueError: the request waits here already.
        """
        if len(self._ages) >= self._max_queue_size:
            self._make_room(request)
        self._add(request)

    def resubmit(self, request: InferenceRequest) -> None:
        """Takes a request again whose model failed; the size limit does not apply."""
        self._add(request)

    def _make_room(self, newcomer: InferenceRequest) -> None:
        if not self._drops_oldest:
            raise QueueFullError(newcomer.client_id)
        _, victim = (self._ages if self._victims is None else self._victims).top()
        if self.eviction_rank(newcomer) > self.eviction_rank(victim):
            raise QueueFullError(newcomer.client_id)
        self.remove(victim)
        log.debug("queue is full: evicted the oldest request, of client %s", victim.client_id)

    def _add(self, request: InferenceRequest) -> None:
        self._ages.push(request, request.received_at)
        if self._victims is not None:
            rank = self.eviction_rank(request)
            self._victims.push(request, -rank, request.received_at, request.arrival)
        lane = self._lanes.get(request.pool)
        if lane is None:
            lane = self._lanes[request.pool] = self.new_lane()
        self._push(lane, request)

    def _push(self, lane: LaneT, request: InferenceRequest) -> None:
        lane.push(request, time.monotonic())

    # Going

    def next_batch_for_model(self, model_id: str, limit: int | None = None) -> list[InferenceRequest]:
        """Removes and returns up to `limit` requests of a model, first to be served first; empty if none is due."""
        lane = self._lanes.get(model_id)
        if lane is None:
            return []
        taken = lane.take(self.unit if limit is None else limit, time.monotonic())
        if not lane:
            del self._lanes[model_id]
        for request in taken:
            self._forget(request)
        return taken

    def remove(self, request: InferenceRequest) -> bool:
        """Removes one waiting request; returns False if it does not wait here."""
        if request not in self._ages:
            return False
        self._leave_lane(request)
        self._forget(request)
        return True

    def tick(self) -> int:
        """Removes the requests that were received longer ago than the time to live; returns their number."""
        expired = 0
        now = time.monotonic()
        while self._ages:
            received_at, request = self._ages.top()
            if now - received_at <= self._ttl_s:
                break
            self.remove(request)
            expired += 1
        return expired

    def on_client_disconnected(self, client_id: str) -> None:
        """Removes the client's waiting requests."""
        for request in [request for request in self._ages if request.client_id == client_id]:
            self.remove(request)

    def _leave_lane(self, request: InferenceRequest) -> None:
        lane = self._lanes[request.pool]
        lane.discard(request)
        if not lane:
            del self._lanes[request.pool]

    def _forget(self, request: InferenceRequest) -> None:
        """Removes a request from every table but its lane."""
        self._ages.discard(request)
        if self._victims is not None:
            self._victims.discard(request)

    def _forget_all(self, requests: Sequence[InferenceRequest]) -> None:
        self._ages.discard_all(requests)
        if self._victims is not None:
            self._victims.discard_all(requests)

    # Looking

    def models(self) -> list[str]:
        """Returns the ids of the models that requests wait for."""
        return list(self._lanes)

    def queue_len(self) -> int:
        """Returns how many requests wait."""
        return len(self._ages)

    def queue_len_for_model(self, model_id: str) -> int:
        """Returns how many requests wait for a model."""
        lane = self._lanes.get(model_id)
        return 0 if lane is None else len(lane)

    def ready_at(self, model_id: str) -> float | None:
        """Returns from when on `next_batch_for_model` returns something; None: nothing waits for that model."""
        lane = self._lanes.get(model_id)
        return None if lane is None else lane.ready_at(time.monotonic())

    def status(self) -> dict[str, Any]:
        """Returns the strategy, how many requests wait and may wait, and how many wait for each model."""
        return {
            "strategy": self.strategy,
            "queue_size": len(self._ages),
            "max_queue_size": self._max_queue_size,
            "models": {model_id: len(lane) for model_id, lane in self._lanes.items()},
        }
