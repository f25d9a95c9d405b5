"""The waiting requests and the strategy that orders them: what is asked of the strategy alone."""

from __future__ import annotations

from collections.abc import Sequence

from inferential.scheduler.adapter import SchedulerAdapter
from inferential.scheduler.base import ModelAwareScheduler, Scheduler
from inferential.scheduler.client_queue import ClientQueue, Key
from inferential.scheduler.guarded import GuardedScheduler
from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.time.availability import Availability, ReplicaSlot
from inferential.scheduler.waiting import Waiting


class OrderedWaiting(Waiting):
    """The tables, and a strategy; `client_queues` submits to it.

    Args:
        availability: when replicas can begin calls, for strategies that go by time.
    """

    def __init__(self, availability: Availability) -> None:
        super().__init__()
        self._availability = availability

    def _put_in_charge(self, scheduler: Scheduler) -> None:
        self.scheduler: Scheduler = scheduler
        order = scheduler if isinstance(scheduler, ModelAwareScheduler) else SchedulerAdapter(scheduler)
        kind = type(order)
        # Set by the class itself, not inherited: a strategy derived from a built-in one is to see every request.
        self._straight_on = "may_defer" in vars(kind)
        # A strategy that ignores the replica answers alike for each free one, so it is asked for the first only.
        self._compares_replicas = kind.next_batch_on is not ModelAwareScheduler.next_batch_on
        self._gives_whole_calls = vars(kind).get("gives_whole_calls", False)  # as above
        self._refuses = kind.take_infeasible is not ModelAwareScheduler.take_infeasible
        is_ours = kind.__module__.partition(".")[0] == __package__.partition(".")[0]
        self._order: ModelAwareScheduler = order if is_ours else GuardedScheduler(order)
        self._order.bind(self._availability)

    def _keeps_nothing_for(self, slot: ReplicaSlot) -> bool:
        """Returns whether the strategy waits for nothing before it uses a free replica."""
        return self._order.ready_on(slot) is None

    def _has_room(self, queue: ClientQueue) -> bool:
        return (window := 1 if queue.serial else self._order.window) is None or len(queue.shown) < window

    def _has_next_of(self, key: Key) -> bool:
        queue = self._client_queues.get(key)
        return queue is not None and bool(queue.behind) and self._has_room(queue)

    def _holds_nothing_back_beside(self, call: Sequence[InferenceRequest]) -> bool:
        """Returns whether all that is in the tables was shown, but a whole call that was taken."""
        return self._gives_whole_calls and len(self._stands) - len(call) == self._order.queue_len()

    def shown(self, model_id: str) -> int:
        """Returns how many requests of a model the strategy sees; all that wait where it does not tell models apart."""
        if isinstance(self._order, SchedulerAdapter):
            return self.waiting(model_id)
        return self._order.queue_len_for_model(model_id)

    def in_turn(self, model_ids: Sequence[str]) -> Sequence[str]:
        """Returns models that share a device, in the order in which they may use it next."""
        return self._order.in_turn(model_ids)

    def tick(self) -> None:
        """Lets the strategy do what only time brings about."""
        self._order.tick()

    def ready_at(self, slots: Sequence[ReplicaSlot]) -> float | None:
        """Returns from when on `take` returns something for these free replicas of a model; None: not by itself."""
        if not slots:
            return None
        if not self._compares_replicas:
            return self._order.ready_on(slots[0])
        return min((at for slot in slots if (at := self._order.ready_on(slot)) is not None), default=None)

    def infeasible_at(self) -> float | None:
        """Returns when `refuse_infeasible` next has something to do; None: never by itself."""
        return self._order.infeasible_at() if self._refuses else None

    def client_connected(self, client_id: str) -> None:
        """Notifies the strategy of a client's first request."""
        self._order.on_client_connected(client_id)
