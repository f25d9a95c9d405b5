"""What runs now: waiting requests met with the free slots of their models.

No I/O, no thread, no event loop and no clock: events and the time go in, batches and the time of the next look come
out. The server drives it, and so does the simulator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from inferential.scheduler.admission import Admission
from inferential.scheduler.base import Scheduler
from inferential.scheduler.request import DISPATCHED, InferenceRequest
from inferential.scheduler.running import Batch, Capacity, Running
from inferential.scheduler.time.availability import Availability
from inferential.scheduler.time.profile import Profiles

if TYPE_CHECKING:
    from inferential.config.schema import SchedulingConfig

__all__ = ["Batch", "Capacity", "Engine"]

RETRY_S = 0.01
"""How long a strategy is left alone that claims to have something due and gives nothing."""


class Engine:
    """Decides what is dispatched.

    Args:
        config: limits of the queue.
        scheduler: the order.
        capacity: what a model takes, asked anew at every decision.
        profiles: what is known of the models' latencies; it is added to by every call.
    """

    def __init__(
        self,
        config: SchedulingConfig,
        scheduler: Scheduler,
        capacity: Callable[[str], Capacity],
        profiles: Profiles | None = None,
    ) -> None:
        self.profiles = Profiles() if profiles is None else profiles
        self._capacity = capacity
        self._running = Running(capacity, self.profiles)
        self._admission = Admission(config, scheduler, self._running)
        # Offered, of models that nobody waited for, and seen by nobody yet; by model and client.
        self._newcomers: dict[str, dict[str, InferenceRequest]] = {}
        self._newcomer_count = 0
        self._last: dict[str, str] = {}  # by device, the model that had it last
        self._decided_at = -math.inf  # `work` ran for this moment, and nothing has happened since

    @property
    def scheduler(self) -> Scheduler:
        """The strategy in charge."""
        return self._admission.scheduler

    @property
    def availability(self) -> Availability:
        """When there will be room for more."""
        return self._running

    def waiting(self, model_id: str | None = None) -> int:
        """How many requests wait, for one model or for all."""
        if model_id is None:
            return len(self._admission) + self._newcomer_count
        return self._admission.waiting(model_id) + len(self._newcomers.get(model_id, ()))

    def running(self) -> list[InferenceRequest]:
        """The requests that are dispatched."""
        return self._running.requests()

    def inflight(self, model_id: str) -> int:
        """How many calls of a model run."""
        return self._running.count(model_id)

    def inflight_by_replica(self, model_id: str) -> dict[str, int]:
        """How many calls of a model run on each replica that runs any."""
        return self._running.by_replica(model_id)

    def ended(self) -> list[InferenceRequest]:
        """The requests that were refused since it was last asked."""
        return self._admission.ended()

    def sizes(self) -> dict[str, int]:
        """Returns the number of entries in each table of the queue."""
        return self._admission.sizes() | {"queue_newcomers": self._newcomer_count}

    def goes_straight(self, request: InferenceRequest) -> bool:
        """Whether nothing that waits could go before a request that is about to be offered: `straight` may give it."""
        group = self._newcomers.get(request.model_id)
        return self._admission.stands_alone(request) if group is None else request.client_id not in group

    def hold(self, request: InferenceRequest) -> None:
        """A request came in that `goes_straight`: it is held until `straight` or `work`, as others may follow."""
        self._newcomers.setdefault(request.model_id, {})[request.client_id] = request
        self._newcomer_count += 1

    def offer(self, request: InferenceRequest, now: float) -> None:
        """A request came in."""
        if self.goes_straight(request):
            self.hold(request)
            return
        self._decided_at = -math.inf
        self._running.begin_decision()
        self._enter_newcomers(now)
        self._admission.offer(request, now)

    def _enter_newcomers(self, now: float) -> None:
        if not self._newcomers:
            return
        groups, self._newcomers, self._newcomer_count = self._newcomers, {}, 0
        for group in groups.values():
            for request in group.values():
                self._admission.offer(request, now)

    def straight(self, now: float) -> list[Batch]:
        """Calls of newcomers that one free replica takes all at once, of models that nobody waits for.

        They are what the queue would give, without the way through its tables, which takes longer than all the rest of
        a small request.
        """
        batches: list[Batch] = []
        if not self._newcomers:
            return batches
        self._running.begin_decision()
        for model_id, group in list(self._newcomers.items()):
            slot = self._running.free_alone(model_id)
            if slot is None or len(group) > slot.max_batch_size:
                continue
            del self._newcomers[model_id]
            requests = list(group.values())
            self._newcomer_count -= len(requests)
            for request in requests:
                request.move(DISPATCHED)
            batch = Batch(model_id, requests, slot.replica, now)
            self._running.begin(batch, None)
            batches.append(batch)
        return batches

    def work(self, now: float) -> list[Batch]:
        """Decides what is dispatched now, and ends what cannot wait any longer; call it after each event.

        Whatever the strategy says, `wake_at` is later than `now` until the next event: what is due at `now` has had
        its chance.
        """
        batches = self.straight(now)
        self._enter_newcomers(now)
        if not len(self._admission):
            return batches
        self._decided_at = now
        self._running.begin_decision()
        self._admission.give_up(now)
        shared: dict[str, list[str]] = {}
        for model_id in self._admission.models():
            device = self._capacity(model_id).device
            if device is None:
                while (batch := self._dispatch(model_id, None, now)) is not None:
                    batches.append(batch)
            else:
                shared.setdefault(device, []).append(model_id)
        for device, model_ids in shared.items():
            batch = self._dispatch_one_of(model_ids, device, now)
            if batch is not None:
                batches.append(batch)
        if batches:
            self._admission.give_up_due(now)  # what turned out to be hopeless while calls were chosen
        return batches

    def _dispatch_one_of(self, model_ids: Sequence[str], device: str, now: float) -> Batch | None:
        """A call of one of the models that share a device, which takes one at a time."""
        after = model_ids.index(self._last[device]) + 1 if self._last.get(device) in model_ids else 0
        for model_id in self._admission.in_turn([*model_ids[after:], *model_ids[:after]]):
            batch = self._dispatch(model_id, device, now)
            if batch is not None:
                self._last[device] = model_id
                return batch
        return None

    def _dispatch(self, model_id: str, device: str | None, now: float) -> Batch | None:
        slots = self._running.free_slots(model_id)
        taken = self._admission.take(slots, now) if slots else None
        if taken is None:
            return None
        slot, requests = taken
        batch = Batch(model_id, requests, slot.replica, now)
        self._running.begin(batch, device)
        return batch

    def finished(self, batch: Batch, now: float, *, measured: bool = True) -> None:
        """A call of a model ended, one way or another; its slot is free.

        Args:
            batch: the call.
            now: seconds of `time.monotonic()`.
            measured: False where its duration tells nothing, as when it failed.
        """
        self._running.end(batch, now, measured=measured)

    def retry(self, request: InferenceRequest, now: float) -> None:
        """A dispatched request is to be tried again."""
        self._decided_at = -math.inf
        self._enter_newcomers(now)
        request.retry_count += 1
        self._admission.retry(request, now)

    def expire(self, now: float) -> None:
        """Time went by."""
        self._enter_newcomers(now)
        self._admission.expire(now)
        self._admission.tick()

    def wake_at(self) -> float | None:
        """Returns when to call `expire` and `work` next if nothing else happens; None: no need.

        After `work(now)` it is later than `now`. A strategy that says "now" and gave nothing is asked again after
        RETRY_S, so that no mistake of a strategy, a user's own or ours, makes a server spin.
        """
        if self._newcomers:  # nobody called `work` since
            self._enter_newcomers(next(iter(next(iter(self._newcomers.values())).values())).received_at)
            self._decided_at = -math.inf
        if not len(self._admission):
            return None
        self._running.begin_decision()
        times = [at for model_id in self._admission.models() if (at := self._ready_at(model_id)) is not None]
        times.extend(at for at in (self._admission.expires_at(), self._admission.gives_up_at()) if at is not None)
        at = min(times, default=None)
        if at is None or at > self._decided_at:
            return at
        return self._decided_at + RETRY_S

    def _ready_at(self, model_id: str) -> float | None:
        """When a model that has a free slot has something to do with it; a busy one waits for `finished`."""
        return self._admission.ready_at(self._running.free_slots(model_id))

    def client_connected(self, client_id: str) -> None:
        """A client was seen for the first time."""
        self._admission.client_connected(client_id)

    def client_gone(self, client_id: str, now: float) -> None:
        """A client will read no more answers: what it has waiting goes."""
        self._enter_newcomers(now)
        self._admission.forget(client_id, now)

    def swap(self, config: SchedulingConfig, scheduler: Scheduler, now: float) -> None:
        """Another strategy takes over, with all that waits."""
        self._decided_at = -math.inf
        self._enter_newcomers(now)
        self._admission.swap(config, scheduler, now)

    def clear(self, reason: str, cause: str, now: float) -> None:
        """Refuses all that waits."""
        self._enter_newcomers(now)
        self._admission.clear(reason, cause, now)
