"""One model's waiting requests under `slo_aware`: which can still be in time, and in which order they are served.

It chooses no batch size and has no latencies: `slo_aware` passes each request's latest start.

Each request that waits is in one of two states:

    live    it can still be in time
    late    it cannot; it is served after all that can, or refused where it wants that

and each client has one queue, ordered by its oldest live request or, where it has none, its oldest late one. There are
two orders. By deadline: live requests, the earliest deadline first. By turn: queues, the smallest turn first,

    turn = since + (deadline - received_at) / 2 + starvation * (1 - weight / 2)
    weight = (1 + urgency) / 2 ** priority, 0 to 2

where `since` is when the client began to wait: it stays while its observations are superseded, become late or end
unserved, and begins anew when one is served. So turns are the same for clients that are alike, a client with more
weight goes before one with less that began to wait up to `starvation` earlier, and no client waits behind others for
ever: one that began to wait `starvation` and half its time ago has a smaller turn than all that begin to wait now.

Queues with only late requests have turns of their own, for such a client must not starve either.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from inferential.scheduler.chunk_lane import ChunkLane
from inferential.scheduler.heap import LazyHeap
from inferential.scheduler.lanes import Lane
from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.weight import weight_of


class ClientQueue:
    """The waiting requests of one client.

    Attributes:
        since: when the client began to wait.
        turns: the order in which its turn stands; None: in none, as while its request is passed over.
    """

    __slots__ = ("late", "live", "since", "turns")

    def __init__(self, since: float) -> None:
        self.since: float = since
        self.turns: LazyHeap[ClientQueue] | None = None
        self.live: OrderedDict[InferenceRequest, None] = OrderedDict()
        self.late: OrderedDict[InferenceRequest, None] = OrderedDict()

    def first(self) -> InferenceRequest:
        """Returns the request that represents the queue in the orders."""
        return next(iter(self.live or self.late))


class SloLane(Lane):
    """One model's requests.

    Args:
        starvation_s: as in the formula above.
        weighted: False: every weight is 1.
    """

    def __init__(self, starvation_s: float, *, weighted: bool) -> None:
        self._starvation_s = starvation_s
        self._weighted = weighted
        self._client_queues: dict[str, ClientQueue] = {}
        self._live: LazyHeap[InferenceRequest] = LazyHeap()  # by deadline
        self._latest_starts: LazyHeap[InferenceRequest] = LazyHeap()
        self._late: LazyHeap[InferenceRequest] = LazyHeap()  # by arrival
        self._infeasible_from: LazyHeap[InferenceRequest] = LazyHeap()  # of those that want to be refused
        self._turns: LazyHeap[ClientQueue] = LazyHeap()
        self._all_late: LazyHeap[ClientQueue] = LazyHeap()  # by turn, of clients that have only late requests
        self._passed_over: list[InferenceRequest] = []
        self.chunks: ChunkLane | None = None  # the requests that are chosen by robot time; None: there were none

    def __len__(self) -> int:
        return len(self._live) + len(self._late) + (0 if self.chunks is None else len(self.chunks))

    def __bool__(self) -> bool:
        return bool(self._client_queues) or bool(self.chunks)

    @property
    def has_others(self) -> bool:
        """Whether any requests wait beside those of `chunks`."""
        return bool(self._client_queues)

    @property
    def live_count(self) -> int:
        """How many requests can still be in time."""
        return len(self._live)

    def live(self) -> Iterator[InferenceRequest]:
        """Returns the requests that can still be in time, in no order."""
        return iter(self._live)

    # Coming and going

    def push(self, request: InferenceRequest, now: float) -> None:
        self.enter(request, request.deadline, request.waiting_since)

    def enter(self, request: InferenceRequest, latest_start: float, since: float) -> None:
        """Adds a live request.

        Args:
            request: which.
            latest_start: when it becomes late.
            since: since when its client waits, if it has nothing else here.
        """
        queue = self._client_queues.get(request.client_id)
        if queue is None:
            queue = self._client_queues[request.client_id] = ClientQueue(since)
        self._live.push(request, request.deadline, request.arrival)
        self._latest_starts.push(request, latest_start)
        queue.live[request] = None
        if queue.first() is request:
            self._set_turn(queue)

    def discard(self, request: InferenceRequest) -> None:
        if self.chunks is not None and request in self.chunks:
            self.chunks.discard(request)
            return
        self._remove(request)
        queue = self._client_queues[request.client_id]
        if not queue.live and not queue.late:
            self._drop(request.client_id, queue)
        else:
            self._set_turn(queue)

    def waits_since(self, client_id: str) -> float | None:
        """Returns since when a client waits; None where nothing of it waits."""
        queue = self._client_queues.get(client_id)
        return None if queue is None else queue.since

    def served(self, request: InferenceRequest, now: float) -> None:
        """Removes a request that is dispatched; the others of its client wait in their own right from now on."""
        self._remove(request)
        queue = self._client_queues[request.client_id]
        if not queue.live and not queue.late:
            self._drop(request.client_id, queue)
        else:
            queue.since = now
            self._set_turn(queue)

    def take(self, limit: int, now: float) -> list[InferenceRequest]:
        taken: list[InferenceRequest] = []
        while len(taken) < limit and (request := self.earliest() or self.oldest_late()) is not None:
            self.served(request, now)
            taken.append(request)
        return taken

    # Becoming late

    def overdue(self, now: float) -> InferenceRequest | None:
        """Returns a live request whose latest start, as last set, has passed; None if there is none."""
        if not self._client_queues or not self._latest_starts:
            return None
        latest_start, request = self._latest_starts.top()
        return request if latest_start < now else None

    def starts_again(self, request: InferenceRequest, latest_start: float) -> None:
        """Sets another latest start, as when calls take less time now."""
        self._latest_starts.discard(request)
        self._latest_starts.push(request, latest_start)

    def is_late(self, request: InferenceRequest, infeasible_from: float) -> None:
        """Makes a live request a late one, for good; `infeasible_from` is when it is refused if it wants that."""
        self._live.discard(request)
        self._latest_starts.discard(request)
        queue = self._client_queues[request.client_id]
        del queue.live[request]
        queue.late[request] = None
        self._late.push(request, request.waiting_since, request.arrival)
        if request.late == "refuse":
            self._infeasible_from.push(request, infeasible_from)
        self._set_turn(queue)

    def infeasible(self, now: float) -> InferenceRequest | None:
        """Returns a late request that wants to be refused, where the time for that has come; None if there is none."""
        if not self._client_queues or not self._infeasible_from:
            return None
        since, request = self._infeasible_from.top()
        return request if since < now else None

    def infeasible_at(self) -> float:
        """Returns when `infeasible` returns something next; infinite where none that is late wants to be refused."""
        if not self._client_queues or not self._infeasible_from:
            return math.inf
        return _just_after(self._infeasible_from.top()[0])

    def loses_nothing(self, now: float) -> bool:
        """Returns whether nothing here becomes late or infeasible by then: only requests of `chunks` wait, if any."""
        return not self._client_queues and not (self.chunks and self.chunks.too_late(now))

    def spent(self, now: float) -> Sequence[InferenceRequest]:
        """Returns the requests of `chunks` that want to be refused, where the time for that has come."""
        return () if self.chunks is None or not self.chunks.may_be_due else self.chunks.too_late(now)

    def serve_late(self, request: InferenceRequest) -> None:
        """Keeps a late request that wanted to be refused, to be served all the same."""
        self._infeasible_from.discard(request)

    def overdue_at(self) -> float:
        """Returns when `overdue` returns something next; infinite where nothing is live."""
        return _just_after(self._latest_starts.top()[0]) if self._latest_starts else math.inf

    # Orders

    def earliest(self) -> InferenceRequest | None:
        """Returns the live request with the earliest deadline; None if there is none."""
        return self._live.top()[1] if self._live else None

    def next_in_turn(self) -> InferenceRequest | None:
        """Returns the live request of the client whose turn it is; None if there is none."""
        return self._turns.top()[1].first() if self._turns else None

    def first_turn(self) -> float:
        """Returns the smallest turn of clients that can be in time. Raises IndexError where none can."""
        return self._turns.top()[0]

    def starving(self, now: float) -> InferenceRequest | None:
        """Returns a late request of a client that has only such and whose turn is past; None if there is none."""
        if not self._all_late:
            return None
        turn, queue = self._all_late.top()
        return queue.first() if turn <= now else None

    def oldest_late(self) -> InferenceRequest | None:
        """Returns the late request that has waited longest; None if there is none."""
        return self._late.top()[1] if self._late else None

    def pass_over(self, request: InferenceRequest) -> None:
        """Hides a live request, and its client's turn, from the orders until `end_of_choice`."""
        self._live.discard(request)
        self._hide(self._client_queues[request.client_id])
        self._passed_over.append(request)

    def end_of_choice(self) -> None:
        """Puts the requests that were passed over back in the orders."""
        for request in self._passed_over:
            self._live.push(request, request.deadline, request.arrival)
            self._set_turn(self._client_queues[request.client_id])
        self._passed_over.clear()

    def _set_turn(self, queue: ClientQueue) -> None:
        request = queue.first()
        weight = weight_of(request) if self._weighted else 1.0
        turn = queue.since + (request.deadline - request.received_at) / 2 + self._starvation_s * (1 - weight / 2)
        self._hide(queue)
        queue.turns = self._turns if queue.live else self._all_late
        queue.turns.push(queue, turn, request.arrival)

    def _hide(self, queue: ClientQueue) -> None:
        if queue.turns is not None:
            queue.turns.discard(queue)
            queue.turns = None

    def _remove(self, request: InferenceRequest) -> None:
        queue = self._client_queues[request.client_id]
        if request in queue.live:
            del queue.live[request]
            self._live.discard(request)
            self._latest_starts.discard(request)
        else:
            del queue.late[request]
            self._late.discard(request)
            if request.late == "refuse":
                self._infeasible_from.discard(request)

    def _drop(self, client_id: str, queue: ClientQueue) -> None:
        del self._client_queues[client_id]
        self._hide(queue)


def _just_after(instant: float) -> float:
    """Returns the first moment at which an instant has passed."""
    return math.nextafter(instant, math.inf)
