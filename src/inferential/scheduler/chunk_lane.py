"""One model's waiting requests of robots that play chunks: which of them make the next call, and how many.

What counts is robot time: seconds for which a robot has an action and had none without the answer. A request's gain
falls while its observation ages (a chunk is aligned by its observation, so that the steps that passed are lost) and
is 0 once all its actions would be past. Only a part of it is lost by waiting: nothing, while the robot still has
actions; all, once it has none. So a request is worth

    value = weight * (gain + min(gain, starved during the next call if it is not in this one)) / (2 * time of its chunk)
            * (1 + AGING * wait / time of its chunk)

with `wait` since its robot was last served, so that robots that are alike take turns. Gains are shares of the time that
a robot's own chunk lasts: counted in seconds, those with long chunks would starve those with short ones. The best
requests by value, as many as gain most value per second of the call, are the call. So of robots that waited alike the
newest observation goes first, a robot with actions left waits while that costs it nothing, and calls are as large as
their efficiency is worth. While only requests wait that gain less than WORTH_SHARE of a chunk, no call begins before a
robot's actions run out.

A robot that renews observations is asked for one when its own has aged (`limits_of`); the new one takes its place.
While all replicas are busy, only those are asked that the next calls would take, were their observations new, and so
long before the call as their observations travel: their turn comes then.

No client is abandoned, whatever the load and the weights: a client whose turn has come,

    turn = since + time of its chunk + starvation * (2 - weight)

is served before all others, the smallest turn first: one in each call of several rows, or one in OWN_SHARE calls of
one row. `since` is when it was last served; where its observation was too old to gain anything, its turn is now.

Rows are numbers in arrays, since a decision looks at all that wait.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.time.availability import ReplicaSlot
from inferential.scheduler.time.profile import LatencyProfile
from inferential.scheduler.time.robot_time import ChunkTime
from inferential.scheduler.weight import weight_of

AGING = 2.0
"""By how much of itself a request's value grows while its robot waits for the time of one chunk."""
RENEW_SHARE = 0.95
"""The share of what an answer to a new observation could give a robot, below which a robot is asked for one."""
WAKE_S = 0.002
"""Seconds before its latest start at which a call that waits begins, as waking up takes time."""
WORTH_SHARE = 0.25
"""The share of a chunk that a robot with actions left must gain, so that a call begins for it before it must."""
OWN_SHARE = 16
"""One in this many calls of a single row begins with the client whose turn has come."""
Array = npt.NDArray[Any]
_MAX_REPLICAS = 1024  # that are remembered
_LEAST_GAIN = 2e-3  # so that requests without gain have an order too
_MAX_CLIENTS = 4096  # whose last service is remembered; beyond it, those served longest ago are forgotten
_RUNS_OUT, _COVERS, _LASTS, _MOST, _WEIGHT, _SINCE, _TURN, _RENEWED, _REFUSED, _SPAN, _LEAD, _COMES = range(12)


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
        self._of_client: Counter[str] = Counter()
        self._rows = np.zeros((12, 16))
        self._served: OrderedDict[str, float] = OrderedDict()  # by client, since when it waits
        self._calls_since_turn = OWN_SHARE
        self._comes_at: dict[str, float] = {}  # by client that knows its turn, when that comes
        self._planned: dict[str, float] = {}  # by replica, the end of its call for which turns were planned

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, request: InferenceRequest) -> bool:
        return request in self._places

    # Coming and going

    def push(self, request: InferenceRequest, renewed_from: float = math.inf, refused_from: float = math.inf) -> None:
        """Adds a request.

        Args:
            request: which.
            renewed_from: when its robot is to be asked for a newer observation.
            refused_from: when it is to be refused.
        """
        chunk = request.chunk
        assert chunk is not None
        place = len(self._requests)
        if place == self._rows.shape[1]:
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)], axis=1)
        self._requests.append(request)
        self._places[request] = place
        self._of_client[request.client_id] += 1
        since = self._served.setdefault(request.client_id, request.waiting_since)
        self._rows[:, place] = (
            chunk.runs_out_at,
            chunk.covers_until,
            chunk.lasts_s,
            chunk.most_s,
            self._weight(request),
            since,
            since + self._patience_s(request),
            renewed_from,
            refused_from,
            chunk.covers_until - request.received_at,
            chunk.lead_s,
            self._comes_at.pop(request.client_id, -math.inf),
        )
        if len(self._served) > _MAX_CLIENTS + len(self._requests):
            self._served.popitem(last=False)

    def discard(self, request: InferenceRequest) -> None:
        """Removes a request that waits in it."""
        place = self._places.pop(request)
        self._of_client[request.client_id] -= 1
        if not self._of_client[request.client_id]:
            del self._of_client[request.client_id]
        last = self._requests.pop()
        if last is not request:
            self._requests[place] = last
            self._places[last] = place
            self._rows[:, place] = self._rows[:, len(self._requests)]

    def forget(self, client_id: str) -> None:
        """Forgets since when a client waits."""
        self._served.pop(client_id, None)
        self._comes_at.pop(client_id, None)

    def clients_remembered(self) -> int:
        """Returns of how many clients it is known since when they wait."""
        return len(self._served)

    def _weight(self, request: InferenceRequest) -> float:
        return weight_of(request) if self._weighted else 1.0

    def _patience_s(self, request: InferenceRequest) -> float:
        assert request.chunk is not None
        return request.chunk.lasts_s + self._starvation_s * (2 - self._weight(request))

    # Choosing

    def runs_out_at(self) -> float:
        """Returns when the first robot of those that wait runs out of actions. Raises ValueError if none waits."""
        return float(self._rows[_RUNS_OUT, : len(self._requests)].min())

    def worth_a_call(self, answered_at: float) -> int:
        """Returns how many requests gain WORTH_SHARE of a chunk, or would starve, were they answered at this moment."""
        rows = self._rows[:, : len(self._requests)]
        begins_at = np.maximum(rows[_RUNS_OUT], answered_at)
        gain = np.minimum(np.minimum(rows[_COVERS], answered_at + rows[_LASTS]) - begins_at, rows[_MOST])
        return int(np.count_nonzero((gain >= WORTH_SHARE * rows[_LASTS]) | (rows[_RUNS_OUT] <= answered_at)))

    def waits_until(self, profile: LatencyProfile, enough: int, now: float) -> float:
        """Returns until when a call waits for more requests; -inf: `enough` are worth a call."""
        worth = self.worth_a_call(now + profile.typical(1))
        return -math.inf if worth >= enough else self.runs_out_at() - profile.high(worth + 1) - WAKE_S

    def due_at(self, slots: Sequence[ReplicaSlot]) -> float:
        """Returns when `take_outdated` or `too_late` returns something next; infinite where they will not."""
        rows = self._rows[:, : len(self._requests)]
        refused_at = float(rows[_REFUSED].min(initial=math.inf))
        if any(slot.free_at == -math.inf for slot in slots):
            return min(refused_at, float(rows[_RENEWED].min(initial=math.inf)))
        lead_s = float(rows[_LEAD, rows[_RENEWED] < math.inf].max(initial=0.0))
        ends = [slot.free_at for slot in slots if self._planned.get(slot.replica) != slot.free_at]
        return min(refused_at, min(ends, default=math.inf) - lead_s) if lead_s else refused_at

    def take_outdated(self, now: float, slots: Sequence[ReplicaSlot]) -> list[InferenceRequest]:
        """Returns the requests whose robots are to be asked for newer observations now, each once; they wait on.

        While all replicas are busy, these are requests of the next calls, so long before a call ends as their robots
        need; `InferenceRequest.turn_at` says when it ends.
        """
        rows = self._rows[:, : len(self._requests)]
        if any(slot.free_at == -math.inf for slot in slots):
            return self._ask(np.flatnonzero(rows[_RENEWED] <= now), now)
        asked: list[InferenceRequest] = []
        for slot in sorted(slots, key=lambda slot: slot.free_at):
            ends_at = slot.free_at
            open_to = rows[_RENEWED] < math.inf
            if not open_to.any() or now < ends_at - rows[_LEAD, open_to].max():
                break
            if ends_at == math.inf:
                break
            if len(self._planned) > _MAX_REPLICAS:
                self._planned.clear()
            self._planned[slot.replica] = ends_at
            next_of = self._of_next_call(slot, max(ends_at, now), now)
            asked += self._ask(next_of[rows[_RENEWED, next_of] <= max(ends_at, now)], max(ends_at, now))
            rows[_COMES, next_of] = max(ends_at, now)
        return asked

    def _of_next_call(self, slot: ReplicaSlot, begins_at: float, now: float) -> npt.NDArray[np.intp]:
        """Returns the places of the requests that a call would take, were all observations that can be renewed new."""
        rows = self._rows[:, : len(self._requests)].copy()
        fresh_until = begins_at - rows[_LEAD] / 2 + rows[_SPAN]
        rows[_COVERS] = np.where(rows[_LEAD] > 0, np.maximum(rows[_COVERS], fresh_until), rows[_COVERS])
        limit = min(slot.max_batch_size, slot.profile.explored(), rows.shape[1])
        full_s = slot.profile.typical(limit)
        value = _values(rows, begins_at + full_s, full_s / 2) * self._urgency(rows, begins_at)
        value[(rows[_COMES] > now) & (rows[_COMES] < begins_at)] = -1.0  # of the call of another replica
        best = value.argpartition(rows.shape[1] - limit)[rows.shape[1] - limit :]
        return best[value[best] >= 0]

    @staticmethod
    def _urgency(rows: Array, now: float) -> Array:
        urgency: Array = now - rows[_SINCE]
        np.maximum(urgency, 0.0, out=urgency)
        urgency *= AGING
        urgency /= rows[_LASTS]
        urgency += 1.0
        urgency *= rows[_WEIGHT]
        return urgency

    def _ask(self, places: npt.NDArray[np.intp], turn_at: float) -> list[InferenceRequest]:
        self._rows[_RENEWED, places] = math.inf
        asked = [self._requests[place] for place in places]
        for request in asked:
            request.turn_at = self._comes_at[request.client_id] = turn_at
        return asked

    def too_late(self, now: float) -> list[InferenceRequest]:
        """Returns the requests that are to be refused now."""
        return [self._requests[place] for place in np.flatnonzero(self._rows[_REFUSED, : len(self._requests)] <= now)]

    def take(self, profile: LatencyProfile, limit: int, now: float) -> list[InferenceRequest]:
        """Removes and returns the requests of a call that begins now, at most `limit` of them."""
        batch = [self._requests[place] for place in self._choose(profile, limit, now)]
        self._calls_since_turn += 1
        answered_at = now + profile.typical(len(batch))
        for request in batch:
            self._serve(request, answered_at, now)
        return batch

    def _serve(self, request: InferenceRequest, answered_at: float, now: float) -> None:
        client_id, chunk = request.client_id, request.chunk
        self._comes_at.pop(client_id, None)
        assert chunk is not None
        rows = self._rows
        since, patience_s = self._served.get(client_id, now), self._patience_s(request)
        if since + patience_s <= now:
            self._calls_since_turn = 0
        since = now if chunk.gained_s(answered_at) > 0 else max(since, now - patience_s)
        self._served[client_id] = since
        self._served.move_to_end(client_id)
        self.discard(request)
        if client_id not in self._of_client:
            return
        for place, other in enumerate(self._requests):
            if other.client_id == client_id:  # it has the chunk of this answer by then
                rows[_RUNS_OUT, place] = max(rows[_RUNS_OUT, place], min(chunk.covers_until, now + chunk.lasts_s))
                rows[_SINCE, place], rows[_TURN, place] = since, since + self._patience_s(other)

    def _choose(self, profile: LatencyProfile, limit: int, now: float) -> list[int]:
        """Returns the places of the next call's requests."""
        count = len(self._requests)
        limit = min(limit, count)
        rows = self._rows[:, :count]
        full_s = profile.typical(limit)
        urgency = self._urgency(rows, now)
        value = _values(rows, now + full_s, full_s / 2) * urgency
        best = value.argpartition(count - limit)[count - limit :] if count > limit else np.arange(count)
        order = best[value[best].argsort()[::-1]]
        turn = rows[_TURN].argmin()
        if rows[_TURN, turn] <= now and (limit > 1 or self._calls_since_turn >= OWN_SHARE):
            order = np.concatenate([[turn], order[order != turn]])[:limit]
        places: list[int] = order.tolist()
        if limit == 1 or not profile.known:
            return places
        latency_s = np.array([profile.typical(size) for size in range(1, limit + 1)])
        chosen = rows[: _MOST + 1, order][:, np.newaxis, :]
        each = _values(chosen, now + latency_s[:, np.newaxis], full_s / 2) * urgency[order]
        totals = each.cumsum(axis=1).diagonal()
        return places[: int((totals / latency_s).argmax()) + 1]


def limits_of(request: InferenceRequest, chunk: ChunkTime, slots: Sequence[ReplicaSlot]) -> tuple[float, float]:
    """Returns when a request's robot is to be asked for a newer observation, and when it is to be refused.

    For a newer one: once an answer could give only RENEW_SHARE of what one to a new observation could, but not before a
    call for it may begin. Refused, where it is to be if it is late: once no action would be left to play.
    """
    if not (chunk.renews or request.late == "refuse") or not all(slot.profile.warm for slot in slots):
        return math.inf, math.inf
    takes_s = min(slot.profile.typical(min(slot.max_batch_size, slot.profile.explored())) for slot in slots)
    could_give_s = max(chunk.covers_until - request.received_at - takes_s, 0.0)
    renewed_from = chunk.covers_until - takes_s - RENEW_SHARE * could_give_s
    return (
        max(renewed_from, chunk.runs_out_at - takes_s) if chunk.renews else math.inf,
        chunk.covers_until - takes_s if request.late == "refuse" else math.inf,
    )


def _values(rows: Array, answered_at: Array | float, next_s: float) -> Array:
    """Returns half the gain, and half of what of it is lost if the answer comes `next_s` later."""
    lasts_s = rows[_LASTS]
    begins_at = np.maximum(rows[_RUNS_OUT], answered_at)
    gain: Array = np.minimum(rows[_COVERS], answered_at + lasts_s)
    gain -= begins_at
    np.maximum(gain, 0.0, out=gain)
    np.minimum(gain, rows[_MOST], out=gain)
    lost: Array = np.subtract(answered_at + next_s, begins_at)
    np.maximum(lost, 0.0, out=lost)
    gain += np.minimum(gain, lost, out=lost)
    gain /= 2 * lasts_s
    gain += _LEAST_GAIN
    return gain
