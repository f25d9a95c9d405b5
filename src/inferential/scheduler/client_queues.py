"""Queues of waiting requests, one for each client and model, and the limits on what may wait.

Each client's queue for a model is first come, first served. The strategy sees only its head (as many requests as its
`window` says), and the next moves up when the head is taken. A request that moves up waits, for the strategy, since
that moment and not since it was received: a client waits behind itself on its own time, and costs another one no more
than one place, whatever it sends and whatever the order is. One that asks for much more than its share of a model while
others ask for less than theirs is also held back after each of its calls (`time.fair_share`). Where a model keeps state
of its robots, a robot has one queue for the model, whichever pools and connections its requests have, and the next one
moves up when the call of the former has ended.

A newer observation takes the place of an older one that still waits (superseding), and its standing: were it sent to
the end instead, a robot faster than the queue's cycle would never be served.

Requests that end here are returned by `ended` as refused; the caller sends the refusals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from inferential.scheduler.adapter import SchedulerAdapter, refusal_of
from inferential.scheduler.ages import Ages
from inferential.scheduler.backlog import Backlog
from inferential.scheduler.base import Scheduler
from inferential.scheduler.client_queue import ClientQueue, Key, key_of
from inferential.scheduler.floods import Floods
from inferential.scheduler.holds import Holds
from inferential.scheduler.ordered import OrderedWaiting
from inferential.scheduler.request import (
    CLIENT_LEFT,
    DISPATCHED,
    NEW_EPISODE,
    QUEUE_FULL,
    QUEUED,
    STALE,
    SUPERSEDED,
    InferenceRequest,
    Refusal,
    RefusalKind,
)
from inferential.scheduler.standings import PATIENCE_S, Standings
from inferential.scheduler.time.availability import ALWAYS_AVAILABLE, Availability, ReplicaSlot

if TYPE_CHECKING:
    from inferential.config.schema import SchedulingConfig

Moved = Callable[[InferenceRequest], object]
MAX_BYTES = 1024 * 1024 * 1024
"""Of the payloads of all waiting requests."""


class ClientQueues(OrderedWaiting):
    """All queued requests, and the strategy that orders the heads of the queues.

    Args:
        config: limits of the queues.
        scheduler: the strategy; one that is not model-aware is adapted.
        availability: when replicas can begin calls, for strategies that go by time.
    """

    def __init__(
        self, config: SchedulingConfig, scheduler: Scheduler, availability: Availability = ALWAYS_AVAILABLE
    ) -> None:
        super().__init__(availability)
        self._holds: Holds[Key] = Holds()
        self._not_before = self._holds.not_before
        self.held: list[tuple[float, Key]] = self._holds.queue  # queues whose next request is not shown yet
        self.running_in_order: dict[Key, object] = self._holds.running
        self.floods: Floods[Key] = Floods(availability)
        self._floods_waiting = self.floods.waiting
        self.perishes: bool = False  # whether any request of lately may become stale
        self._ended: list[InferenceRequest] = []
        self._configure(config, scheduler)

    def _configure(self, config: SchedulingConfig, scheduler: Scheduler) -> None:
        self._max_queue_size = config.max_queue_size
        self._ttl_s = config.request_ttl_ms / 1e3
        self._standings = Standings(self._ttl_s)
        self._drops_oldest = config.overflow_policy == "drop_oldest"
        self._put_in_charge(scheduler)

    def ended(self) -> list[InferenceRequest]:
        """Returns the requests that were refused since the last call."""
        ended, self._ended = self._ended, []
        return ended

    # Entering

    def is_alone(self, request: InferenceRequest) -> bool:
        """Returns whether nothing that waits could go before a new request, and the strategy would not defer it."""
        return (
            self._straight_on
            and not self._order.may_defer
            and request.pool not in self._waiting
            and (not request.pace_s or self.may_follow(request))
        )

    def may_follow(self, request: InferenceRequest) -> bool:
        """Returns whether a new request need not wait for its pace, nor for an older one of its robot."""
        key = key_of(request)
        return self._holds.until(key) <= request.received_at and (
            key not in self._client_queues if request.in_order else not self.floods.stops(request)
        )

    def offer(self, request: InferenceRequest, now: float) -> None:
        """Takes a new request, or refuses it; others may be refused for its sake."""
        key = key_of(request)
        queue = self._client_queues.get(key)
        if queue is None and self._standings:
            self._standings.give(key, request, now, enters=True)
        if queue is not None:
            self._supersede(queue, request, now)
            if queue.episode != request.episode:
                for former in queue.former_episodes(request):
                    self.end(former, NEW_EPISODE, now)
        rank = self._order.eviction_rank(request)
        full = len(self._ages) >= self._max_queue_size and not self._make_room(rank, now)
        while not full and self._held_bytes + len(request.payload) > MAX_BYTES:
            full = not self._make_room(rank, now)
        if full:
            self._refuse(request, Refusal(RefusalKind.REJECTED, self._full(), QUEUE_FULL))
            return
        request.move(QUEUED)
        self._enter(request, key, rank, now)

    def _supersede(self, queue: ClientQueue, request: InferenceRequest, now: float) -> None:
        if (older := queue.superseded_by(request)) is not None:
            request.waiting_since, request.arrival = older.waiting_since, older.arrival
            self.end(older, SUPERSEDED, now)

    def retry(self, request: InferenceRequest, now: float) -> None:
        """Takes a dispatched request again, past the size limit and before its client's others."""
        key = key_of(request)
        queue = self._client_queues.get(key)
        if request.takes_latest and queue is not None and queue.latest is not None:
            self._refuse(request, Refusal(RefusalKind.SUPERSEDED, "a newer one came while it ran and failed", "newer"))
            return
        request.move(QUEUED)
        if request.in_order:
            self._holds.end(request.in_order, request)  # the next one waits for it still, in the queue
        self._enter(request, key, self._order.eviction_rank(request), now, retried=True)

    def _make_room(self, rank: int, now: float) -> bool:
        """Drops one request of the highest rank; returns False where the new request is the one to refuse."""
        highest = max(self._backlogs, default=-1)
        if not self._drops_oldest or rank > highest:
            return False
        self.end(self._backlogs[highest].victim(), Refusal(RefusalKind.REJECTED, self._full(), QUEUE_FULL), now)
        return True

    def _full(self) -> str:
        if len(self._ages) >= self._max_queue_size:
            return f"the queue is full ({self._max_queue_size} requests wait)"
        return f"the queue is full ({self._held_bytes} bytes of observations wait, at most {MAX_BYTES} may)"

    def _enter(self, request: InferenceRequest, key: Key, rank: int, now: float, *, retried: bool = False) -> None:
        queue = self._client_queues.get(key)
        if queue is None:
            queue = self._client_queues[key] = ClientQueue(key)
        since = request.received_at
        if request.stale_at is not None:
            since, self.perishes = min(since, request.stale_at - self._ttl_s), True
        self._ages.push(request, since)
        self._stands[request] = rank, queue
        request.overdue_after_s = PATIENCE_S
        self._held_bytes += len(request.payload)
        if rank not in self._backlogs:
            self._backlogs[rank] = Backlog()
        self._backlogs[rank].add(request)
        self._waiting[request.pool] = self._waiting.get(request.pool, 0) + 1
        if request.takes_latest:
            queue.latest = request
        queue.episode, queue.serial = request.episode, request.in_order is not None
        if retried and request.in_order and (queue.shown or key in self.running_in_order):
            self._return(request, queue, key, now)
        elif retried or (
            not queue.behind
            and self._has_room(queue)
            and not ((self._not_before or request.pace_s) and self._is_stopped(request, key, now))
        ):
            self._show(request, queue, now, retried=retried)
        else:
            queue.hold_back(request)

    def _return(self, request: InferenceRequest, queue: ClientQueue, key: Key, now: float) -> None:
        """Puts a request that is tried again to its place among others of its robot that were in calls as it was."""
        for later in [one for one in queue.shown if one.arrival > request.arrival]:
            self._order.remove(later)
            queue.take_back(later)
        queue.hold_back(request)
        queue.sort()
        self._move_up(queue, key, now)

    def release(self, now: float) -> None:
        """Shows the strategy the requests that were held back until now; call it before `choose`."""
        for key in self._holds.due(now):
            if (queue := self._client_queues.get(key)) is not None:
                self._move_up(queue, key, now)

    def show_floods(self, now: float) -> bool:
        """Shows the strategy requests that flood and no other will wait for; returns whether there are any."""
        keys = self.floods.due(now, self._has_next_of, self._keeps_nothing_for)
        for key in keys:
            self._show_next(self._client_queues[key], now)
        return bool(keys)

    def held_until(self) -> float | None:
        """Returns when `release` or `show_floods` next has something to do; None: nothing is held back."""
        at = self.held[0][0] if self.held else None
        if self._floods_waiting and (look_at := self.floods.due_at()) is not None:
            return look_at if at is None else min(at, look_at)
        return at

    def dispatched(self, request: InferenceRequest, now: float) -> None:
        """Notes a call of a request whose client's next one is held back, until its end or for a while."""
        if request.in_order:
            self._holds.begin_call(request.in_order, request)
        else:
            self._holds.begin(key_of(request), now + request.pace_s, now)

    def released(self, request: InferenceRequest, now: float) -> None:
        """Notes that a request is over which its robot's next one had to wait for."""
        if (key := request.in_order) and self._holds.end(key, request) and (queue := self._client_queues.get(key)):
            self._move_up(queue, key, now)

    def _show(self, request: InferenceRequest, queue: ClientQueue, now: float, *, retried: bool = False) -> None:
        # The limits are applied here: those of the built-in strategies would drop, unnoticed, what passed ours.
        limited = isinstance(self._order, SchedulerAdapter) and not retried
        try:
            (self._order.submit if limited else self._order.resubmit)(request)
        except Exception as error:
            queue.hold_back(request)
            self.end(request, refusal_of(error), now)
        else:
            queue.shown[request] = None

    # Leaving

    def choose(self, slots: Sequence[ReplicaSlot], now: float) -> tuple[ReplicaSlot, list[InferenceRequest]] | None:
        """Takes the requests of one call, in the strategy's order, and marks them as dispatched.

        They may be in the tables until `settle` is called, as the call does not wait for that.

        Args:
            slots: replicas of one model that can begin a call now, in the order in which to offer them.
            now: seconds of `time.monotonic()`.

        Returns:
            The replica that runs the call, and its requests; None if the strategy gives nothing for any of them.
        """
        if self.leaving:
            self.settle()
        for slot in slots:
            taken: list[InferenceRequest] = []
            while len(taken) < slot.max_batch_size:
                batch = self._order.next_batch_on(slot, len(taken))
                if not batch:
                    break
                for request in batch:
                    request.move(DISPATCHED)
                    if request.pace_s:
                        self.dispatched(request, now)
                if len(batch) > 1 and self._holds_nothing_back_beside(batch):
                    self.leaving, self._left_at = batch, now
                    return slot, batch
                self._leave(batch, now)
                taken.extend(batch)
            if taken:
                return slot, taken
            if not self._compares_replicas:
                break
        return None

    def settle(self) -> None:
        """Removes the requests from the tables that `choose` took."""
        if self.leaving:
            leaving, self.leaving = self.leaving, ()
            self._leave(leaving, self._left_at)

    def refuse_infeasible(self, now: float) -> None:
        """Refuses what cannot be in time and must not be served late."""
        if not self._refuses:
            return
        for request, reason in self._order.take_infeasible():
            self._leave((request,), now)
            self._refuse(request, Refusal(RefusalKind.EXPIRED, reason, "deadline"))

    def outdated(self) -> list[InferenceRequest]:
        """Returns the waiting requests whose robots are to be asked for newer observations now, each once."""
        return self._order.take_outdated() if self._refuses else []

    def end(self, request: InferenceRequest, refusal: Refusal, now: float) -> None:
        """Refuses a waiting request."""
        if request in self._stands[request][1].shown:
            self._order.remove(request)
        self._leave((request,), now)
        self._refuse(request, refusal)

    def expire(self, now: float) -> None:
        """Refuses what has waited longer than its time to live, or until it was stale."""
        while self._ages and now >= (top := self._ages.top())[0] + self._ttl_s:
            since, request = top
            if request in self._stands[request][1].shown and not request.floods:
                self._standings.note(key_of(request), request, now)
            expired = Refusal(RefusalKind.EXPIRED, f"it waited {self._ttl_s * 1e3:g} ms in the queue", "ttl")
            self.end(request, STALE if since < request.received_at else expired, now)

    def expires_at(self) -> float | None:
        """Returns when `expire` next has something to do; None: nothing waits."""
        return self._ages.top()[0] + self._ttl_s if self._ages else None

    def forget(self, client_id: str, now: float) -> None:
        """Refuses all waiting requests of a client that is gone."""
        for request in [request for request in self._ages if request.client_id == client_id]:
            self.end(request, CLIENT_LEFT, now)
        self._standings.forget(client_id)
        self._order.on_client_disconnected(client_id)

    def forget_connection(self, connection: int, now: float) -> None:
        """Refuses all waiting requests that came by a connection which has ended."""
        for request in self.of_connection(connection):
            self.end(request, CLIENT_LEFT, now)
        self._standings.forget(connection)

    def clear(self, reason: str, cause: str, now: float) -> None:
        """Refuses all that waits."""
        for request in list(self._ages):
            self.end(request, Refusal(RefusalKind.REJECTED, reason, cause), now)

    def swap(self, config: SchedulingConfig, scheduler: Scheduler, now: float, moved: Moved = id) -> None:
        """Puts another strategy in charge of all that waits; `moved` may change the pool of each."""
        requests = sorted(self._ages, key=lambda request: request.arrival)
        for request in requests:
            self._order.remove(request)
        for table in (self._client_queues, self._waiting, self._backlogs, self._stands):
            table.clear()
        self._ages, self._held_bytes = Ages(), 0
        self._holds.keep_endless()
        self.floods.clear()
        self._configure(config, scheduler)
        for request in requests:
            moved(request)
            key = key_of(request)
            if request.takes_latest and (queue := self._client_queues.get(key)) is not None:
                self._supersede(queue, request, now)
            self._enter(request, key, self._order.eviction_rank(request), now)

    def move_queue(self, key: Key, moved: Moved, now: float) -> None:
        """Has `moved` change the pools of the requests of one queue, which stay in it."""
        if (queue := self._client_queues.get(key)) is None:
            return
        requests = [*queue.shown, *queue.behind]
        for request in reversed(requests):
            if request in queue.shown:
                self._order.remove(request)
            self._leave((request,), now)
        for request in requests:
            moved(request)
            self._enter(request, key_of(request), self._order.eviction_rank(request), now)

    def _refuse(self, request: InferenceRequest, refusal: Refusal) -> None:
        request.refuse(refusal)
        self._ended.append(request)

    def _leave(self, requests: Sequence[InferenceRequest], now: float) -> None:
        """Removes requests of one pool from every table; the next ones of their queues move up."""
        self._leave_tables(requests)
        stood = self._stands.pop
        for request in requests:
            _, queue = stood(request)
            if queue.latest is request:
                queue.latest = None
            if queue.behind:
                del (queue.behind if request in queue.behind else queue.shown)[request]
                self._move_up(queue, queue.key, now)
            else:
                del queue.shown[request]
            if not queue.shown and not queue.behind:
                self._client_queues.pop(queue.key, None)

    def _move_up(self, queue: ClientQueue, key: Key, now: float) -> None:
        while queue.behind and self._has_room(queue) and not self._is_stopped(next(iter(queue.behind)), key, now):
            self._show_next(queue, now)

    def _show_next(self, queue: ClientQueue, now: float) -> None:
        following, _ = queue.behind.popitem(last=False)
        following.waiting_since = max(following.waiting_since, now)
        self._standings.give(queue.key, following, now, enters=False)
        self._show(following, queue, now)

    def _is_stopped(self, request: InferenceRequest, key: Key, now: float) -> bool:
        if self._not_before and self._holds.stops(key, now):
            return True
        if not request.pace_s or not self.floods.stops(request):
            return False
        self.floods.enter(key, request.pool, now)
        return True
