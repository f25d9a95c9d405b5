"""One model's waiting requests of robots that play chunks: which of them make the next call, and how many.

What counts is robot time: seconds for which a robot has an action and had none without the answer; what each request is
worth, and in which order and how many make a call, is in `chunk_values`. Here is what waits, since when, and when.

While only requests wait that gain less than WORTH_SHARE of a chunk, no call begins before a robot's actions run out.

A robot that renews observations is asked for one when its own has aged (`limits_of`); the new one takes its place.
While all replicas are busy, only those are asked that the next calls would take, were their observations new, each
shortly before the last control step from which its observation comes in time; where its control steps are not known, so
long before the call as its observation may travel. Not asked is one whose next control step comes too late for it.

No client is abandoned, whatever the load and the weights: a client whose turn has come,

    turn = since + time of its chunk + starvation * (2 - weight)

is served before all others, the smallest turn first: one in each call of several rows, or one in OWN_SHARE calls of
one row. `since` is when it was last served; where its observation was too old to gain anything, its turn is now.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from inferential.scheduler import chunk_values as values
from inferential.scheduler.chunk_client import ChunkClient, note_reserves
from inferential.scheduler.chunk_table import ChunkTable
from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.time.availability import ReplicaSlot
from inferential.scheduler.time.profile import LatencyProfile
from inferential.scheduler.time.robot_time import ChunkTime
from inferential.scheduler.weight import weight_of

RENEW_SHARE = 0.95
"""The share of what an answer to a new observation could give a robot, below which a robot is asked for one."""
WAKE_S = 0.002
"""Seconds before its latest start at which a call begins that waits, and robots are asked, as waking up takes time."""
WORTH_SHARE = 0.25
"""The share of a chunk that a robot with actions left must gain, so that a call begins for it before it must."""
OWN_SHARE = 16
"""One in this many calls of a single row begins with the client whose turn has come."""
MEMORY_S = 5.0
"""Starved time counts by exp(-age / MEMORY_S)."""
_MEAN_RATE = 0.02  # by which the mean of what clients starved follows each client that is served
_MAX_REPLICAS = 1024  # that are remembered
_MAX_CLIENTS = 4096  # whose last service is remembered; beyond it, those served longest ago are forgotten


class ChunkLane:
    """The requests that say what a chunk adds (`InferenceRequest.chunk`).

    Args:
        starvation_s: as in the formula above.
        weighted: False: every weight is 1.
    """

    def __init__(self, starvation_s: float, *, weighted: bool) -> None:
        self._starvation_s = starvation_s
        self._weighted = weighted
        self._requests: list[InferenceRequest] = []
        self._places: dict[InferenceRequest, int] = {}
        self._of_client: dict[str, int] = {}  # how many requests of each client there are
        self._table = ChunkTable()  # of the requests, by place
        self._served: OrderedDict[str, ChunkClient] = OrderedDict()  # by client
        self._calls_since_turn = OWN_SHARE
        self._size = 0  # of the last call that had a choice
        self._comes_at: dict[str, float] = {}  # by client that knows its turn, when that comes
        self._planned: dict[str, tuple[float, float]] = {}  # by replica: the end of its call, and when to plan again
        self._starved = 0.0  # mean of what the clients starved lately
        self._has_limits = False  # some request may be renewed or refused
        self._limits: tuple[float, float, float] | None = None  # as `_due` returns them; None: not known
        self._worth: tuple[float, int, int] | None = None  # what `worth_a_call` was last asked, and returned

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, request: InferenceRequest) -> bool:
        return request in self._places

    # Coming and going

    def push(
        self,
        request: InferenceRequest,
        old_from: float = math.inf,
        renewed_from: float = math.inf,
        refused_from: float = math.inf,
    ) -> None:
        """Adds a request.

        Args:
            request: which.
            old_from: when a call had better have a newer observation of its robot.
            renewed_from: when its robot is to be asked for one though no call is to take it.
            refused_from: when it is to be refused.
        """
        chunk = request.chunk
        assert chunk is not None
        client_id = request.client_id
        self._places[request] = len(self._requests)
        self._requests.append(request)
        self._of_client[client_id] = self._of_client.get(client_id, 0) + 1
        client = self._served.get(client_id)
        if client is None:
            client = self._served[client_id] = ChunkClient(request.waiting_since)
        now = request.received_at
        starved = max(client.starved - self._starved, 0.0) / max(self._starved, 1.0)
        column = values.column(
            chunk,
            observed_at=now,
            weight=weight_of(request) if self._weighted else 1.0,
            since=client.since,
            starvation_s=self._starvation_s,
            starved=starved,
            old_from=old_from,
            renewed_from=renewed_from,
            refused_from=refused_from,
            comes_at=self._comes_at.pop(client_id, -math.inf),
        )
        self._table.add(column, now)
        self._has_limits = self._has_limits or min(old_from, refused_from) < math.inf
        self._changed()
        if len(self._served) > _MAX_CLIENTS + len(self._requests):
            self._served.popitem(last=False)

    def discard(self, request: InferenceRequest) -> None:
        """Removes a request that waits in it."""
        self._remove([request], [self._places[request]])

    def _remove(self, requests: Sequence[InferenceRequest], at: Sequence[int]) -> None:
        waiting, places, of_client = self._requests, self._places, self._of_client
        for request in requests:
            del places[request]
            if others := of_client.pop(request.client_id) - 1:
                of_client[request.client_id] = others
        for place, former in self._table.remove(at):
            request = waiting[place] = waiting[former]
            places[request] = place
        del waiting[len(self._table) :]
        self._limits = self._worth = None

    def _changed(self) -> None:
        self._limits = self._worth = None

    def forget(self, client_id: str) -> None:
        """Forgets since when a client waits."""
        self._served.pop(client_id, None)
        self._comes_at.pop(client_id, None)

    def clients_remembered(self) -> int:
        """Returns of how many clients it is known since when they wait."""
        return len(self._served)

    # When

    def runs_out_at(self) -> float:
        """Returns when the first robot of those that wait runs out of actions; infinite if none waits."""
        return values.least(self._table.rows[values.RUNS_OUT])

    def starve(self, now: float, enough: int) -> bool:
        """Returns whether so many robots of those that wait have run out of actions."""
        return self._table.starve(now, enough)

    def worth_a_call(self, answered_at: float, enough: int) -> int:
        """Returns how many requests, or `enough`, gain WORTH_SHARE of a chunk or would starve, if answered then."""
        known = self._worth
        if known is None or known[0] != answered_at or known[1] != enough:
            count = values.worth(self._table.rows, answered_at, WORTH_SHARE, enough)
            known = self._worth = answered_at, enough, count
        return known[2]

    def waits_until(self, profile: LatencyProfile, enough: int, now: float) -> float:
        """Returns until when a call waits for more requests; -inf: `enough` are worth a call."""
        worth = self.worth_a_call(now + profile.typical(1), enough)
        if worth >= enough:
            return -math.inf
        # A client whose turn has come waits no longer, whatever it says of the actions that it has left.
        first_turn = values.least(self._table.rows[values.TURN])
        return min(self.runs_out_at() - profile.high(worth + 1) - WAKE_S, first_turn)

    def _due(self) -> tuple[float, float, float]:
        """Returns when the first is to be refused, when asked for another, and the longest lead of those to plan."""
        if not self._has_limits:
            return math.inf, math.inf, 0.0
        if self._limits is None:
            rows = self._table.rows
            refused_at, asked_at = values.least(rows[values.REFUSED]), values.least(rows[values.ASKS])
            lead_s = -values.least(-rows[values.AHEAD]) if self._requests else 0.0
            self._limits = refused_at, asked_at, lead_s + WAKE_S if lead_s else 0.0
            self._has_limits = lead_s > 0 or min(refused_at, asked_at) < math.inf
        return self._limits

    @property
    def may_be_due(self) -> bool:
        """Whether a request waits that is to be refused, or whose robot is to be asked for another, at some time."""
        return self._has_limits and bool(self._requests)

    def due_at(self, slots: Sequence[ReplicaSlot]) -> float:
        """Returns when `take_outdated` or `too_late` returns something next; infinite where they will not."""
        refused_at, asked_at, lead_s = self._due()
        if any(slot.free_at == -math.inf for slot in slots):
            return min(refused_at, asked_at, values.least(self._table.rows[values.RENEWED]))
        if not lead_s:
            return min(refused_at, asked_at)
        return min(refused_at, asked_at, min((self._plans_at(slot, lead_s) for slot in slots), default=math.inf))

    def _plans_at(self, slot: ReplicaSlot, lead_s: float) -> float:
        """Returns when it is to be planned what a replica does next: once for its call, and again where that lasts."""
        planned = self._planned.get(slot.replica)
        return slot.free_at - lead_s if planned is None or planned[0] != slot.free_at else planned[1]

    def take_outdated(self, now: float, slots: Sequence[ReplicaSlot]) -> list[InferenceRequest]:
        """Returns the requests whose robots are to be asked for newer observations now, each once; they wait on.

        While all replicas are busy, these are requests of the next calls, so long before a call ends as their robots
        need; `InferenceRequest.turn_at` says when it ends.
        """
        rows = self._table.rows
        if any(slot.free_at == -math.inf for slot in slots):
            due = np.minimum(rows[values.RENEWED], rows[values.ASKS]) <= now
        else:
            self._plan(now, slots)
            if self._due()[1] > now:
                return []
            due = rows[values.ASKS] <= now
        return self._ask(np.flatnonzero(due), now)

    def _plan(self, now: float, slots: Sequence[ReplicaSlot]) -> None:
        """Notes when to ask which robots for the next calls that are so near that some are to be asked soon."""
        rows = self._table.rows
        for slot in sorted(slots, key=lambda slot: slot.free_at):
            lead_s = self._due()[2]
            if not lead_s or now < slot.free_at - lead_s or slot.free_at == math.inf:
                break
            if now < self._plans_at(slot, lead_s):
                continue
            if len(self._planned) > _MAX_REPLICAS:
                self._planned.clear()
            # Of a call that takes longer than usual nothing is known but that: it may take as long again.
            over_s = now - slot.free_at
            begins_at = now + over_s if over_s >= lead_s else max(slot.free_at, now)
            self._planned[slot.replica] = slot.free_at, begins_at + lead_s
            renewed = values.renewed(rows, begins_at - WAKE_S, now)
            next_of = self._of_next_call(slot, renewed, begins_at, now)
            is_old = rows[values.OLD, next_of] <= begins_at
            is_old &= rows[values.COMES, next_of] != begins_at  # else it was renewed for this call
            rows[values.COMES, next_of] = begins_at
            next_of = next_of[is_old]
            rows[values.ASKS, next_of] = renewed[values.ASKS, next_of]
            self._limits = None

    def _of_next_call(
        self, slot: ReplicaSlot, rows: values.Array, begins_at: float, now: float
    ) -> npt.NDArray[np.intp]:
        """Returns the places of the requests that a call would take, were the rows as given; it changes them."""
        comes_at = rows[values.COMES]
        of_others = (comes_at > now) & (comes_at < begins_at)  # which are of the call of another replica
        rows[values.WORTH, of_others] = rows[values.AGES, of_others] = 0.0
        limit = min(slot.max_batch_size, slot.profile.explored())
        return np.array(values.choose(values.Columns(rows), slot.profile, limit, begins_at, None, self._size), np.intp)

    def _ask(self, places: npt.NDArray[np.intp], now: float) -> list[InferenceRequest]:
        rows = self._table.rows
        turns_at = np.maximum(rows[values.COMES, places], now)
        rows[values.OLD, places] = rows[values.RENEWED, places] = rows[values.ASKS, places] = math.inf
        rows[values.AHEAD, places] = 0.0
        self._limits = None
        asked = [self._requests[place] for place in places]
        for request, turn_at in zip(asked, turns_at.tolist(), strict=True):
            request.turn_at = self._comes_at[request.client_id] = turn_at
        return asked

    def too_late(self, now: float) -> list[InferenceRequest]:
        """Returns the requests that are to be refused now."""
        if self._due()[0] > now:
            return []
        refused = self._table.rows[values.REFUSED]
        return [self._requests[place] for place in np.flatnonzero(refused <= now)]

    # Choosing

    def take(
        self, profile: LatencyProfile, limit: int, now: float, answer_within_s: tuple[float, float] | None = None
    ) -> list[InferenceRequest]:
        """Removes and returns the requests of a call that begins now.

        Args:
            profile: of its replica.
            limit: the most requests.
            now: seconds of `time.monotonic()`.
            answer_within_s: how long the next answers may take, by how many robots ask lately, and at most; None: not
                known.
        """
        table, waiting = self._table, self._requests
        turn = table.due(now) if limit > 1 or self._calls_since_turn >= OWN_SHARE else None
        places = values.choose(table, profile, limit, now, turn, self._size)
        if len(places) < len(waiting):
            self._size = len(places)
        batch = [waiting[place] for place in places]
        self._calls_since_turn += 1
        answered_at = now + profile.typical(len(batch))
        if answer_within_s is not None:
            note_reserves(batch, self._served, answer_within_s, answered_at)
        self._serve(batch, table.of(places), answered_at, now)
        self._remove(batch, places)
        for request in batch:
            if request.client_id in self._of_client:
                self._cover(request, now)
        return batch

    def _serve(
        self, batch: Sequence[InferenceRequest], facts: Sequence[Sequence[float]], answered_at: float, now: float
    ) -> None:
        """Notes that the clients of a call are served, whose requests have these rows up to TURN."""
        clients, comes_at, mean = self._served, self._comes_at, self._starved
        for request, of_request in zip(batch, facts, strict=True):
            runs_out_at, ends_at, lasts_s, _, _, _, _, _, _, _, since, turn = of_request
            client_id = request.client_id
            if comes_at:
                comes_at.pop(client_id, None)
            client = clients.get(client_id)
            if client is None:
                client = clients[client_id] = ChunkClient(since)
            if turn <= now:
                self._calls_since_turn = 0
            if ends_at > answered_at + lasts_s:
                ends_at = answered_at + lasts_s
            if ends_at > answered_at and ends_at > runs_out_at:
                client.since = now
            else:  # it gains nothing
                client.since = max(client.since, now - (turn - since))
            lasts_until = client.lasts_until
            starved = answered_at - (runs_out_at if runs_out_at < lasts_until else lasts_until)
            if starved > 0 or client.starved:
                if client.starved:
                    client.starved *= math.exp(min(client.starved_at - now, 0.0) / MEMORY_S)
                if starved > 0:
                    client.starved += min(starved / lasts_s, values.MOST_STARVED)
                client.starved_at = now
            mean += _MEAN_RATE * (client.starved - mean)
            client.lasts_until = ends_at
            clients.move_to_end(client_id)
        self._starved = mean

    def _cover(self, served: InferenceRequest, now: float) -> None:
        """Notes in the other requests of a robot that one of them is served: they have its chunk by then."""
        chunk, client = served.chunk, self._served[served.client_id]
        assert chunk is not None
        for place, other in enumerate(self._requests):
            if other.client_id == served.client_id:
                covered_until = min(chunk.covers_until, now + chunk.lasts_s)
                self._table.serve(place, covered_until, client.since, self._starvation_s)
        self._changed()


def limits_of(request: InferenceRequest, chunk: ChunkTime, slots: Sequence[ReplicaSlot]) -> tuple[float, float, float]:
    """Returns when an observation is old, when its robot is to be asked for a newer one, and when it is refused.

    Old: once an answer could give only RENEW_SHARE of what one to a new observation could. Where no call is to take it,
    its robot is asked then, but not before a call for it may begin. Refused, where it is to be if it is late: once no
    action would be left to play.
    """
    if not (chunk.renews or request.late == "refuse") or not all(slot.profile.warm for slot in slots):
        return math.inf, math.inf, math.inf
    takes_s = min(slot.profile.typical(min(slot.max_batch_size, slot.profile.explored())) for slot in slots)
    could_give_s = max(chunk.covers_until - request.received_at - takes_s, 0.0)
    old_from = chunk.covers_until - takes_s - RENEW_SHARE * could_give_s if chunk.renews else math.inf
    refused_from = chunk.covers_until - takes_s if request.late == "refuse" else math.inf
    return old_from, max(old_from, chunk.runs_out_at - takes_s), refused_from
