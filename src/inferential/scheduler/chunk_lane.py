"""One model's waiting requests of robots that play chunks: which of them make the next call, and how many.

What counts is robot time: seconds for which a robot has an action and had none without the answer; what each request is
worth, and in which order and how many make a call, is in `chunk_values`. Here is what waits, since when, and when.

While only requests wait that gain less than WORTH_SHARE of a chunk, no call begins before a robot's actions run out.

A robot that renews observations is asked for one when its own has aged (`limits_of`); the new one takes its place.
While all replicas are busy, only those are asked that the next calls would take, were their observations new, each
shortly before the last control step from which its observation comes in time, also where the call before ends a little
earlier than usual; where its control steps are not known, so long before the call as its observation may travel. Not
asked is one whose next control step comes too late for it.

No client is abandoned, whatever the load and the weights: a client whose turn has come,

    turn = since + time of its chunk + starvation * (2 - weight)

is served before all others, the smallest turn first: one in each call of several rows, or one in OWN_SHARE calls of
one row. `since` is when it was last served; where its observation was too old to gain anything, its turn is now.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from inferential.scheduler import chunk_columns as columns
from inferential.scheduler.chunk_client import ChunkClient, Usual, note_reserves, note_served, owed
from inferential.scheduler.chunk_gains import worth
from inferential.scheduler.chunk_renewed import RenewedAlike
from inferential.scheduler.chunk_table import ChunkTable
from inferential.scheduler.chunk_values import choose, renewed
from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.time.availability import ReplicaSlot
from inferential.scheduler.time.profile import LatencyProfile
from inferential.scheduler.time.robot_time import ChunkTime
from inferential.scheduler.weight import weight_of

RENEW_SHARE = 0.95
"""The share of what an answer to a new observation could give a robot, below which a robot is asked for one."""
WAKE_S = 0.002
"""Seconds before its latest start at which a call begins that waits, and robots are asked, as waking up takes time."""
EARLY_SHARE = 0.5
"""The part of what the high quantile of a call is beyond its median, by which observations come before its end: one
that is missing costs a robot several steps, an older one a part of a step. Some four of five calls find theirs so."""
WORTH_SHARE = 0.25
"""The share of a chunk that a robot with actions left must gain, so that a call begins for it before it must."""
OWN_SHARE = 16
"""One in this many calls of a single row begins with the client whose turn has come."""
_MAX_REPLICAS = 1024  # that are remembered
_MAX_CLIENTS = 4096  # without requests that are remembered; beyond it, those served longest ago are forgotten


_Call = tuple[list[tuple[InferenceRequest, ChunkClient]], columns.Places, float, float]
"""Whom it serves, from which places, when it began, and when it is expected to end."""


class ChunkLane:
    """The requests that say what a chunk adds (`InferenceRequest.chunk`).

    Args:
        starvation_s: as in the formula above.
        weighted: False: every weight is 1.
    """

    def __init__(self, starvation_s: float, *, weighted: bool) -> None:
        self._starvation_s = starvation_s
        self._weighted = weighted
        self._places: dict[InferenceRequest, int] = {}  # in the table
        self._at: dict[int, tuple[InferenceRequest, ChunkClient]] = {}  # by place
        self._table = ChunkTable()  # read by `_settled`
        self._last_call: _Call | None = None  # that is not noted yet
        self._refused_from = math.inf  # no request is to be refused before
        self._clients: dict[str, ChunkClient] = {}  # by id, also such that wait for nothing
        self._calls_since_turn = OWN_SHARE
        self._size = 0  # of the last call that had a choice
        self._planned: dict[str, tuple[float, float]] = {}  # by replica: the end of its call, and when to plan again
        self._usual = Usual()
        self._comes_until = -math.inf  # the latest call that any was planned for
        self._has_limits = False  # some request may be renewed or refused
        self._limits: tuple[float, float, float] | None = None  # as `_due` returns them; None: not known
        self._worth: tuple[float, int, int] | None = None  # what `worth_a_call` was last asked, and returned

    def __len__(self) -> int:
        return len(self._at) - (0 if self._last_call is None else len(self._last_call[0]))

    def __contains__(self, request: InferenceRequest) -> bool:
        self._settled()
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
        table = self._settled()
        client = self._clients.get(request.client_id)
        if client is None:
            client = self._clients[request.client_id] = ChunkClient(request.waiting_since)
        now = request.received_at
        column = columns.column(
            chunk,
            observed_at=now,
            weight=weight_of(request) if self._weighted else 1.0,
            since=client.since,
            starvation_s=self._starvation_s,
            owed=owed(client, self._usual, chunk.lasts_s),
            old_from=old_from,
            renewed_from=renewed_from,
            refused_from=refused_from,
            comes_at=client.comes_at,
        )
        client.comes_at = -math.inf
        client.waiting += 1
        place = self._places[request] = table.add(column, now)
        self._at[place] = request, client
        self._has_limits = self._has_limits or min(old_from, refused_from) < math.inf
        self._refused_from = min(self._refused_from, column[columns.REFUSED])
        self._changed()
        if len(self._clients) > _MAX_CLIENTS + len(self._at):
            self._forget_some()

    def discard(self, request: InferenceRequest) -> None:
        """Removes a request that waits in it."""
        self._settled()
        place = self._places.pop(request)
        _, client = self._at.pop(place)
        client.waiting -= 1
        self._vacate(np.array([place]))

    def _vacate(self, places: columns.Places) -> None:
        table = self._table
        table.remove(places)
        if table.is_sparse:
            self._at = {now: self._at[before] for now, before in enumerate(table.compact())}
            self._places = {request: place for place, (request, _) in self._at.items()}
        self._changed()

    def _changed(self) -> None:
        self._limits = self._worth = None

    def forget(self, client_id: str) -> None:
        """Forgets since when a client waits."""
        self._clients.pop(client_id, None)

    def _forget_some(self) -> None:
        idle = [(client.since, client_id) for client_id, client in self._clients.items() if not client.waiting]
        for _, client_id in sorted(idle)[: _MAX_CLIENTS // 2]:
            del self._clients[client_id]

    def clients_remembered(self) -> int:
        """Returns of how many clients it is known since when they wait."""
        return len(self._clients)

    # When

    def runs_out_at(self) -> float:
        """Returns when the first robot of those that wait runs out of actions; infinite if none waits."""
        return columns.least(self._settled().row[columns.RUNS_OUT])

    def starve(self, now: float, enough: int) -> bool:
        """Returns whether so many robots of those that wait have run out of actions."""
        return self._settled().starve(now, enough)

    def worth_a_call(self, answered_at: float, enough: int) -> int:
        """Returns how many requests, or `enough`, gain WORTH_SHARE of a chunk or would starve, if answered then."""
        known = self._worth
        if known is None or known[0] != answered_at or known[1] != enough:
            count = worth(self._settled().row, answered_at, WORTH_SHARE, enough)
            known = self._worth = answered_at, enough, count
        return known[2]

    def waits_until(self, profile: LatencyProfile, enough: int, now: float) -> float:
        """Returns until when a call waits for more requests; -inf: `enough` are worth a call."""
        worth = self.worth_a_call(now + profile.typical(1), enough)
        if worth >= enough:
            return -math.inf
        # A client whose turn has come waits no longer, whatever it says of the actions that it has left.
        first_turn = columns.least(self._settled().row[columns.TURN])
        return min(self.runs_out_at() - profile.high(worth + 1) - WAKE_S, first_turn)

    def _due(self) -> tuple[float, float, float]:
        """Returns when the first is to be refused, when asked for another, and the longest lead of those to plan."""
        if not self._has_limits:
            return math.inf, math.inf, 0.0
        if self._limits is None:
            row = self._settled().row
            refused_at, asked_at = columns.least(row[columns.REFUSED]), columns.least(row[columns.ASKS])
            lead_s = -columns.least(-row[columns.AHEAD])
            self._limits = refused_at, asked_at, lead_s + WAKE_S if lead_s else 0.0
            self._has_limits = lead_s > 0 or min(refused_at, asked_at) < math.inf
        return self._limits

    @property
    def may_be_due(self) -> bool:
        """Whether a request waits that is to be refused, or whose robot is to be asked for another, at some time."""
        return self._has_limits and len(self) > 0

    def due_at(self, slots: Sequence[ReplicaSlot]) -> float:
        """Returns when `take_outdated` or `too_late` returns something next; infinite where they will not."""
        refused_at, asked_at, lead_s = self._due()
        if any(slot.free_at == -math.inf for slot in slots):
            return min(refused_at, asked_at, columns.least(self._settled().row[columns.RENEWED]))
        if not lead_s:
            return min(refused_at, asked_at)
        return min(refused_at, asked_at, min((self._plans_at(slot, lead_s) for slot in slots), default=math.inf))

    def _plans_at(self, slot: ReplicaSlot, lead_s: float) -> float:
        """Returns when it is to be planned what a replica does next: once for its call, and again where that lasts."""
        planned = self._planned.get(slot.replica)
        if planned is None or planned[0] != slot.free_at:
            return slot.free_at - lead_s - _early_s(slot)
        return planned[1]

    def take_outdated(self, now: float, slots: Sequence[ReplicaSlot]) -> list[InferenceRequest]:
        """Returns the requests whose robots are to be asked for newer observations now, each once; they wait on.

        While all replicas are busy, these are requests of the next calls, so long before a call ends as their robots
        need; `InferenceRequest.turn_at` says when it ends.
        """
        rows = self._settled().rows
        if any(slot.free_at == -math.inf for slot in slots):
            due = np.minimum(rows[columns.RENEWED], rows[columns.ASKS]) <= now
        else:
            self._plan(now, slots)
            if self._due()[1] > now:
                return []
            due = rows[columns.ASKS] <= now
        return self._ask(np.flatnonzero(due), now)

    def _plan(self, now: float, slots: Sequence[ReplicaSlot]) -> None:
        """Notes when to ask which robots for the next calls that are so near that some are to be asked soon."""
        table = self._settled()
        for slot in sorted(slots, key=lambda slot: slot.free_at):
            lead_s = self._due()[2]
            if not lead_s or slot.free_at == math.inf:
                break
            if now < self._plans_at(slot, lead_s):
                continue  # the next may be due all the same: its calls may vary more
            if len(self._planned) > _MAX_REPLICAS:
                self._planned.clear()
            # Of a call that takes longer than usual nothing is known but that: it may take as long again.
            over_s = now - slot.free_at
            begins_at = now + over_s if over_s >= lead_s else max(slot.free_at, now)
            self._planned[slot.replica] = slot.free_at, begins_at + lead_s
            by = begins_at - WAKE_S - _early_s(slot)
            anew: columns.Columns = (
                RenewedAlike(table, by, now)
                if table.alike
                else columns.Columns(renewed(table.rows, by, now), len(table))
            )
            next_of = self._of_next_call(slot, anew, begins_at, now)
            comes_at = table.row[columns.COMES]
            is_old = table.row[columns.OLD].take(next_of) <= begins_at
            is_old &= comes_at.take(next_of) != begins_at  # else it was renewed for this call
            comes_at[next_of] = begins_at
            self._comes_until = max(self._comes_until, begins_at)
            next_of = next_of[is_old]
            if next_of.size:
                table.row[columns.ASKS][next_of] = anew.row[columns.ASKS].take(next_of)
                self._limits = None

    def _of_next_call(self, slot: ReplicaSlot, anew: columns.Columns, begins_at: float, now: float) -> columns.Places:
        """Returns the places of the requests that a call would take, were all so; it changes the list of their rows."""
        if self._comes_until > now:
            comes_at = anew.row[columns.COMES]
            is_open = (comes_at <= now) | (comes_at >= begins_at)  # the others are of the call of another replica
            for name in (columns.WORTH, columns.AGES):
                anew.row[name] = anew.row[name] * is_open
        limit = min(slot.max_batch_size, slot.profile.explored())
        return choose(anew, slot.profile, limit, begins_at, None, self._size)

    def _ask(self, places: columns.Places, now: float) -> list[InferenceRequest]:
        rows = self._settled().rows
        turns_at = np.maximum(rows[columns.COMES, places], now)
        rows[columns.OLD, places] = rows[columns.RENEWED, places] = rows[columns.ASKS, places] = math.inf
        rows[columns.AHEAD, places] = 0.0
        self._limits = None
        asked = []
        for place, turn_at in zip(places.tolist(), turns_at.tolist(), strict=True):
            request, client = self._at[place]
            request.turn_at = client.comes_at = turn_at
            asked.append(request)
        return asked

    def too_late(self, now: float) -> list[InferenceRequest]:
        """Returns the requests that are to be refused now."""
        if self._refused_from > now:
            return []
        refused = self._settled().row[columns.REFUSED]
        self._refused_from = columns.least(refused)
        return [self._at[place][0] for place in np.flatnonzero(refused <= now).tolist()]

    # Choosing

    def take(
        self, profile: LatencyProfile, limit: int, now: float, answer_within_s: tuple[float, float] | None = None
    ) -> list[InferenceRequest]:
        """Removes and returns the requests of a call that begins now.

        Args:
            profile: of its replica.
            limit: the most requests.
            now: seconds of `time.monotonic()`.
            answer_within_s: how long the next answers may take, by how many ask lately, and at most; None: not known.
        """
        table, at = self._settled(), self._at
        turn = table.due(now) if limit > 1 or self._calls_since_turn >= OWN_SHARE else None
        order = choose(table, profile, limit, now, turn, self._size)
        places = order.tolist()
        if len(places) < len(at):
            self._size = len(places)
        is_turn = turn is not None or (limit == 1 and table.row[columns.TURN][places[0]] <= now)
        self._calls_since_turn = 0 if is_turn else self._calls_since_turn + 1
        served = [at[place] for place in places]
        batch = [request for request, _ in served]
        answered_at = now + profile.typical(len(batch))
        if answer_within_s is not None:
            note_reserves(served, answer_within_s, answered_at)
        self._last_call = served, order, now, answered_at
        self._changed()
        if len(batch) == len(at):
            self._settled()  # else it is kept, with its requests, until another comes
        return batch

    def settle(self) -> bool:
        """Notes whom the last call serves, which did not wait for that; returns `may_be_due`."""
        self._settled()
        return self.may_be_due

    def _settled(self) -> ChunkTable:
        """Returns the table, with the last call noted in it: the call does not wait for that."""
        if self._last_call is not None:
            (served, order, now, answered_at), self._last_call = self._last_call, None
            for place, (request, _) in zip(order.tolist(), served, strict=True):
                del self._at[place], self._places[request]
            note_served(served, self._table.briefs(order), answered_at, now, self._usual)
            self._vacate(order)
            for request, client in served:
                if client.waiting:
                    self._cover(request, client, now)
        return self._table

    def _cover(self, served: InferenceRequest, client: ChunkClient, now: float) -> None:
        """Notes in the other requests of a robot that one of them is served: they have its chunk by then."""
        chunk = served.chunk
        assert chunk is not None
        covered_until = chunk.plays_until(now)
        for place, (_, owner) in self._at.items():
            if owner is client:
                self._table.serve(place, covered_until, client.since, self._starvation_s)
        self._changed()


def _early_s(slot: ReplicaSlot) -> float:
    """Returns by how much earlier than its call observations are to come, as that may begin before it is expected."""
    rows = min(slot.max_batch_size, slot.profile.explored())
    return EARLY_SHARE * (slot.profile.high(rows) - slot.profile.typical(rows))


def limits_of(request: InferenceRequest, chunk: ChunkTime, slots: Sequence[ReplicaSlot]) -> tuple[float, float, float]:
    """Returns when an observation is old, when its robot is to be asked for a newer one, and when it is refused.

    Old: once an answer could give only RENEW_SHARE of what one to a new observation could, and not before the robot's
    next control step: none is newer until then. Where no call is to take it, its robot is asked then, but not before a
    call for it may begin. Refused, where it is to be if it is late: once no action would be left to play.
    """
    if not (chunk.renews or request.late == "refuse") or not all(slot.profile.warm for slot in slots):
        return math.inf, math.inf, math.inf
    takes_s = min(slot.profile.typical(min(slot.max_batch_size, slot.profile.explored())) for slot in slots)
    old_from = refused_from = math.inf
    if chunk.covers_until == math.inf:
        # One to a new observation loses only what its robot has left then, and is never too old to be played.
        loses_from = chunk.runs_out_at - chunk.lasts_s + chunk.most_s / RENEW_SHARE
        if chunk.renews and loses_from < chunk.runs_out_at:
            old_from = loses_from
    else:
        could_give_s = chunk.covers_until - request.received_at - takes_s
        if chunk.renews and could_give_s > 0:
            old_from = chunk.covers_until - takes_s - RENEW_SHARE * could_give_s
        if request.late == "refuse":
            refused_from = chunk.covers_until - takes_s
    old_from = max(old_from, request.received_at + max(chunk.step_s, WAKE_S))
    return old_from, max(old_from, chunk.runs_out_at - takes_s), refused_from
