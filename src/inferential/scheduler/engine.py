"""Decides what runs now: matches waiting requests with the free replicas of their models.

It has no I/O, thread, event loop or clock: events and the time are arguments, batches and the time of the next decision
are results. The server drives it, and so does the simulator:

    an event        `offer`, `finished`, `retry`, `client_gone`, ...
    then            `work(now)`, whose batches the caller runs, and `ended()`, whose refusals it sends
    then            `outdated()`, whose robots it asks for newer observations: to find them takes as long as to choose a
                    call, so that it is for when the calls have begun
    then            `wake_at()`, when to call `expire(now)` and `work(now)` if no event comes before

Progress is the engine's own guarantee: after `work(now)`, `wake_at()` is later than `now`, whatever the strategy says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence, Sized
from typing import TYPE_CHECKING

from inferential.scheduler.admission import Admission
from inferential.scheduler.base import Scheduler
from inferential.scheduler.client_queues import ClientQueues
from inferential.scheduler.request import CANCELLED, DISPATCHED, QUEUED, InferenceRequest, Refusal
from inferential.scheduler.running import Batch, Capacity, Running
from inferential.scheduler.time.availability import Availability
from inferential.scheduler.time.profile import Profiles

if TYPE_CHECKING:
    from inferential.config.schema import SchedulingConfig

__all__ = ["Batch", "Capacity", "Engine"]

RETRY_S = 0.01
"""Seconds until a strategy is asked again that says it has something due and gives nothing."""


class Engine:
    """Decides what is dispatched.

    Args:
        config: limits of the queues.
        scheduler: the strategy, which orders requests.
        capacity: returns what a model takes at once, by model id; called at every decision.
        profiles: latencies of the models, which every measured call adds to; None: an empty set.
    """

    def __init__(
        self,
        config: SchedulingConfig,
        scheduler: Scheduler,
        capacity: Callable[[str], Capacity],
        profiles: Profiles | None = None,
    ) -> None:
        self.profiles: Profiles = Profiles() if profiles is None else profiles
        self._capacity = capacity
        self._config = config
        self._running = Running(capacity, self.profiles)
        self._admission = Admission(config, scheduler, self._running)
        self.waits: Callable[[int], int] = self._admission.waits
        """Returns how many requests of a connection wait."""
        self._last: dict[str, str] = {}  # by device, the model that had it last
        self._decided_at = -math.inf  # `work` ran for this moment, and no request came since

    @property
    def scheduler(self) -> Scheduler:
        """The strategy in charge."""
        return self._admission.scheduler

    @property
    def availability(self) -> Availability:
        """When replicas can begin their next calls."""
        return self._running

    def waiting(self, model_id: str | None = None) -> int:
        """Returns how many requests wait, for one model or for all."""
        return self._admission.waiting(model_id)

    def sizes(self) -> dict[str, int]:
        """Returns the number of rows in each table of the queue."""
        return self._admission.sizes()

    def requests(self) -> list[InferenceRequest]:
        """Returns the requests that wait or run."""
        return [*self._admission.queues.requests(), *self._running.requests()]

    def waiting_requests(self) -> list[InferenceRequest]:
        """Returns the requests that wait."""
        return self._admission.queues.requests()

    def running(self) -> list[InferenceRequest]:
        """Returns the requests that are dispatched."""
        return self._running.requests()

    @property
    def running_in_order(self) -> Sized:
        """What runs that others of its robot wait for; always the same object."""
        return self._admission.running_in_order

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._running.any and not self._admission.waiting(None)

    def inflight(self, model_id: str) -> int:
        """Returns how many calls of a model run, with those that are about to end."""
        return self._running.count(model_id)

    def inflight_by_replica(self, model_id: str) -> dict[str, int]:
        """Returns how many calls of a model run on each replica that runs any."""
        return self._running.by_replica(model_id)

    def running_calls(self, model_id: str) -> list[Batch]:
        """Returns the running calls of a model."""
        return self._running.calls(model_id)

    def running_since(self) -> dict[str, list[float]]:
        """Returns when the running calls of each model began, with those that are about to end."""
        return self._running.since()

    def ended(self) -> list[InferenceRequest]:
        """Returns the requests that were refused since the last call."""
        return self._admission.ended()

    def outdated(self) -> list[InferenceRequest]:
        """Plans the next calls, and returns waiting requests whose robots are to be asked for a newer observation now.

        Each is returned once. They wait on, and may be dispatched before a newer observation takes their place. To be
        called after `work`, once the calls that it returned have begun.
        """
        queues = self._admission.queues
        if not len(queues):
            return []
        self._running.begin_decision()
        return queues.outdated()

    def can_bypass(self, request: InferenceRequest) -> bool:
        """Returns whether nothing that waits could go before a new request, so that `stage` may take it."""
        return self._admission.can_bypass(request)

    def supersedes(self, request: InferenceRequest) -> bool:
        """Returns whether a new request would take the place of one of its client that waits."""
        return self._admission.supersedes(request)

    def expect(self, request: InferenceRequest) -> None:
        """Notes a request of a client that does not flood: calls of clients that do are not to meet its next."""
        self._admission.floods.expect(request)

    def stage(self, request: InferenceRequest) -> None:
        """Takes a new request for which `can_bypass` is true, until `take_bypassed` or `work` dispatches it."""
        self._admission.stage(request)

    def offer(self, request: InferenceRequest, now: float) -> None:
        """Takes a new request; it may be refused at once, or others may be for its sake (see `ended`).

        Args:
            request: in state NEW.
            now: seconds of `time.monotonic()`, as in all methods below.
        """
        if self._admission.can_bypass(request):
            self._admission.stage(request)
            return
        self._decided_at = -math.inf
        self._running.begin_decision()
        self._admission.queues.offer(request, now)

    def take_bypassed(self, now: float) -> list[Batch]:
        """Returns calls of staged requests, where one free replica takes all that are staged for its model.

        They are what the queues would give, without the way through their tables, which takes longer than all other
        work on a small request.
        """
        batches: list[Batch] = []
        admission, running = self._admission, self._running
        staged = admission.staged
        if not staged:
            return batches
        running.begin_decision()
        for model_id in tuple(staged):
            slot = running.free_alone(model_id)
            if slot is None or len(staged[model_id]) > slot.max_batch_size:
                continue
            batch = Batch(model_id, admission.take_staged(model_id), slot.replica, now)
            running.begin(batch, None)
            batches.append(batch)
        return batches

    def work(self, now: float) -> list[Batch]:
        """Returns the calls to begin now, and ends what cannot wait any longer; call it after each event."""
        batches = self.take_bypassed(now)
        queues = self._admission.queues
        if not len(queues):
            return batches
        self._decided_at = now
        self._running.begin_decision()
        if queues.held:
            queues.release(now)
        if queues.perishes:
            queues.expire(now)  # the timer may be late
        queues.refuse_infeasible(now)
        while True:
            shared: dict[str, list[str]] = {}
            for model_id in queues.models():
                capacity = self._capacity(model_id)
                if capacity.device is None:
                    while (batch := self._dispatch(queues, model_id, None, now)) is not None:
                        batches.append(batch)
                        if capacity.single:
                            break  # its only slot is taken
                else:
                    shared.setdefault(capacity.device, []).append(model_id)
            for device, model_ids in shared.items():
                batch = self._dispatch_one_of(queues, model_ids, device, now)
                if batch is not None:
                    batches.append(batch)
            if not (queues.floods.waiting and queues.show_floods(now)):  # they are shown when all else has its call
                break
        if batches:
            queues.refuse_infeasible(now)  # requests that became infeasible while calls were chosen
        return batches

    def _dispatch_one_of(self, queues: ClientQueues, model_ids: Sequence[str], device: str, now: float) -> Batch | None:
        """Returns a call of one of the models that share a device, which takes one at a time."""
        after = model_ids.index(self._last[device]) + 1 if self._last.get(device) in model_ids else 0
        for model_id in queues.in_turn([*model_ids[after:], *model_ids[:after]]):
            batch = self._dispatch(queues, model_id, device, now)
            if batch is not None:
                self._last[device] = model_id
                return batch
        return None

    def _dispatch(self, queues: ClientQueues, model_id: str, device: str | None, now: float) -> Batch | None:
        slots = self._running.free_slots(model_id)
        taken = queues.choose(slots, now) if slots else None
        if taken is None:
            return None
        slot, requests = taken
        batch = Batch(model_id, requests, slot.replica, now)
        self._running.begin(batch, device)
        return batch

    def may_send_ahead(self, model_id: str) -> bool:
        """Returns whether the next call of a model may be sent while one ends.

        What may run now must fill it, so that no later request could join it, and no other model have the same device.
        """
        capacity = self._capacity(model_id)
        return capacity.device is None and self._admission.ready(model_id) >= capacity.max_batch_size

    def ending(self, batch: Batch, now: float) -> None:
        """Frees the slot of a call that is about to end, so that the next one is there by then; `finished` follows.

        Its requests run until then.
        """
        self._running.ending(batch, now)

    def finished(self, batch: Batch, now: float, *, measured: bool = True) -> None:
        """Frees the slot of a call that ended, with a result or without.

        Args:
            batch: the call.
            now: when it ended.
            measured: whether to learn from its duration; False where it says nothing, as when the model failed.
        """
        self._running.end(batch, now, measured=measured)

    def release(self, batch: Batch, now: float) -> None:
        """Lets what `in_order` has wait for a call's requests follow; to be called once each has ended or waits again.

        It has nothing to do while `running_in_order` is empty.
        """
        if not batch.handed_over:
            queues = self._admission.queues
            for request in batch.requests:
                if request.state is not QUEUED:
                    queues.released(request, now)

    def retry(self, request: InferenceRequest, now: float) -> None:
        """Takes a dispatched request again whose model failed."""
        self._decided_at = -math.inf
        request.retry_count += 1
        self._admission.queues.retry(request, now)

    def hand_over(self, batch: Batch, moved: Callable[[InferenceRequest], object], now: float) -> None:
        """Takes the requests of a running call again, once `moved` has changed the pool of each.

        The call keeps its slot until it is `finished`; what it ends in is no answer to them any more.
        """
        batch.handed_over = True
        for request in batch.requests:
            if request.state is DISPATCHED:
                moved(request)
                self.retry(request, now)
                if request.state is not QUEUED:  # a newer one is there
                    self._admission.queues.released(request, now)

    def refuse(self, request: InferenceRequest, refusal: Refusal, now: float) -> None:
        """Ends a waiting request; `ended` returns it."""
        self._admission.queues.end(request, refusal, now)

    def expire(self, now: float) -> None:
        """Ends requests that have outlived their time to live, and lets the strategy do what only time brings about."""
        queues = self._admission.queues
        queues.expire(now)
        queues.tick()

    def wake_at(self) -> float | None:
        """Returns when to call `expire` and `work` next if nothing else happens; None: only an event brings more.

        After `work(now)` it is later than `now`: a strategy that says "now" and gave nothing is asked again after
        RETRY_S, so that no mistake of a strategy, built in or a user's own, makes a server spin.
        """
        if self._admission.staged:  # no `work` since
            self._decided_at = -math.inf
        queues = self._admission.queues
        if not len(queues):
            return None
        self._running.begin_decision()
        free_slots = self._running.free_slots
        times = [queues.ready_at(slots) for model_id in queues.models() if (slots := free_slots(model_id))]
        times += [queues.expires_at(), queues.infeasible_at(), queues.held_until()]
        at = min([at for at in times if at is not None], default=None)
        if at is None or at > self._decided_at:
            return at
        return self._decided_at + RETRY_S

    def client_connected(self, client_id: str) -> None:
        """Notes a client's first request."""
        self._admission.queues.client_connected(client_id)

    def client_gone(self, client_id: str, now: float) -> None:
        """Ends what a client has waiting that will read no more answers."""
        self._admission.queues.forget(client_id, now)

    def connection_gone(self, connection: int, now: float) -> None:
        """Ends what waits of a connection that has ended, whichever connection uses its client's id now."""
        self._admission.queues.forget_connection(connection, now)

    def waiting_of(self, connection: int) -> list[InferenceRequest]:
        """Returns the waiting requests that came by a connection."""
        return self._admission.queues.of_connection(connection)

    def cancel(self, connection: int, request_ids: Collection[int], now: float) -> None:
        """Ends those requests of a connection that wait still, as the robot takes them back."""
        queues = self._admission.queues
        for request in queues.of_connection(connection):
            if request.request_id in request_ids:
                queues.end(request, CANCELLED, now)

    def swap(self, config: SchedulingConfig, scheduler: Scheduler, now: float) -> None:
        """Puts another strategy in charge, of the requests that wait too."""
        self._decided_at = -math.inf
        self._config = config
        self._admission.queues.swap(config, scheduler, now)

    def move(self, moved: Callable[[InferenceRequest], object], now: float) -> None:
        """Has `moved` change the pools of waiting requests."""
        self._decided_at = -math.inf
        self._admission.queues.swap(self._config, self.scheduler, now, moved)

    def move_robot(self, robot: tuple[str, str], moved: Callable[[InferenceRequest], object], now: float) -> None:
        """Has `moved` change the pools of a robot's waiting requests for a model, as `InferenceRequest.in_order`."""
        self._decided_at = -math.inf
        self._admission.queues.move_queue(robot, moved, now)

    def clear(self, reason: str, cause: str, now: float) -> None:
        """Refuses all that waits.

        Args:
            reason: in words, for the clients.
            cause: in one word, for metrics.
            now: seconds of `time.monotonic()`.
        """
        self._admission.queues.clear(reason, cause, now)
