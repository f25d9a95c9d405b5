"""One model's waiting requests of robots that play chunks: which of them make the next call, and how many.

What counts is robot time: seconds for which a robot has an action and had none without the answer. A request's gain
falls while its observation ages (a chunk is aligned by its observation, so that the steps that passed are lost) and
is 0 once all its actions would be past. Only a part of it is lost by waiting: nothing, while the robot still has
actions; all, once it has none. So a request is worth

    value = weight * (gain + min(gain, starved during the next call if it is not in this one)) / 2 * (1 + wait / TAU_S)

with `wait` since its robot was last served, so that robots that are alike take turns. The best requests by value, as
many as gain most value per second of the call, are the call. So equals that starve go by the newest observation, a
robot with actions left waits while that costs it nothing, and calls are as large as their efficiency is worth.

Nobody is abandoned, whatever the load and the weights: a client whose turn has come,

    turn = since + time of its chunk + starvation * (2 - weight)

is served before all others, the smallest turn first: one in each call of several rows, or one in LATE_SHARE calls of
one row. `since` is when it was last served; where its observation was too old to gain anything, its turn is now.

Rows are numbers in arrays, since a decision looks at all that wait.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np

from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.time.profile import LatencyProfile
from inferential.scheduler.weight import weight_of

TAU_S = 0.2
"""Seconds of waiting that double a request's value."""
OWN_SHARE = 16
"""One in this many calls of a single row begins with the client whose turn has come."""
_LEAST_GAIN_S = 1e-3  # so that requests without gain have an order too
_MAX_CLIENTS = 4096  # whose last service is remembered; beyond it, those served longest ago are forgotten
_RUNS_OUT, _COVERS, _PLAYS, _MOST, _WEIGHT, _SINCE, _TURN, _ARRIVAL, _OUTDATED = range(9)


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
        self._rows = np.zeros((9, 16))
        self._served: OrderedDict[str, float] = OrderedDict()  # by client, since when it waits
        self._calls_since_turn = OWN_SHARE

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, request: InferenceRequest) -> bool:
        return request in self._places

    # Coming and going

    def push(self, request: InferenceRequest, outdated_from: float = math.inf) -> None:
        """Adds a request; `outdated_from` is when its robot is to be asked for a newer observation instead."""
        chunk = request.chunk
        assert chunk is not None
        place = len(self._requests)
        if place == self._rows.shape[1]:
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)], axis=1)
        self._requests.append(request)
        self._places[request] = place
        since = self._served.setdefault(request.client_id, request.waiting_since)
        self._rows[:, place] = (
            chunk.runs_out_at,
            chunk.covers_until,
            chunk.plays_s,
            chunk.most_s,
            self._weight(request),
            since,
            since + self._patience_s(request),
            request.arrival,
            outdated_from,
        )
        if len(self._served) > _MAX_CLIENTS + len(self._requests):
            self._served.popitem(last=False)

    def discard(self, request: InferenceRequest) -> None:
        """Removes a request that waits in it."""
        place = self._places.pop(request)
        last = self._requests.pop()
        if last is not request:
            self._requests[place] = last
            self._places[last] = place
            self._rows[:, place] = self._rows[:, len(self._requests)]

    def forget(self, client_id: str) -> None:
        """Forgets since when a client waits."""
        self._served.pop(client_id, None)

    def _weight(self, request: InferenceRequest) -> float:
        return weight_of(request) if self._weighted else 1.0

    def _patience_s(self, request: InferenceRequest) -> float:
        assert request.chunk is not None
        lasts_s = min(request.chunk.covers_until - request.received_at, request.chunk.plays_s, request.chunk.most_s)
        return max(lasts_s, 0.0) + self._starvation_s * (2 - self._weight(request))

    # Choosing

    def runs_out_at(self) -> float:
        """Returns when the first robot of those that wait runs out of actions. Raises ValueError if none waits."""
        return float(self._rows[_RUNS_OUT, : len(self._requests)].min())

    def outdated_at(self) -> float:
        """Returns when the first observation is outdated; infinite where none will be."""
        return float(self._rows[_OUTDATED, : len(self._requests)].min(initial=math.inf))

    def outdated(self, now: float) -> list[InferenceRequest]:
        """Returns the requests whose observations are outdated now."""
        return [self._requests[place] for place in np.flatnonzero(self._rows[_OUTDATED, : len(self._requests)] <= now)]

    def take(self, profile: LatencyProfile, limit: int, now: float) -> list[InferenceRequest]:
        """Removes and returns the requests of a call that begins now, at most `limit` of them."""
        batch = [self._requests[place] for place in self._choose(profile, limit, now)[0]]
        self._calls_since_turn += 1
        for request in batch:
            self._serve(request, now + profile.typical(len(batch)), now)
        return batch

    def value_rate(self, profile: LatencyProfile, limit: int, now: float) -> float:
        """Returns the value per second of the call that `take` would return."""
        return self._choose(profile, limit, now)[1]

    def _serve(self, request: InferenceRequest, answered_at: float, now: float) -> None:
        client_id, chunk = request.client_id, request.chunk
        assert chunk is not None
        rows = self._rows
        since, patience_s = self._served.get(client_id, now), self._patience_s(request)
        if since + patience_s <= now:
            self._calls_since_turn = 0
        since = now if chunk.gained_s(answered_at) > 0 else max(since, now - patience_s)
        self._served[client_id] = since
        self._served.move_to_end(client_id)
        self.discard(request)
        for place, other in enumerate(self._requests):
            if other.client_id == client_id:  # it has the chunk of this answer by then
                rows[_RUNS_OUT, place] = max(rows[_RUNS_OUT, place], min(chunk.covers_until, now + chunk.plays_s))
                rows[_SINCE, place], rows[_TURN, place] = since, since + self._patience_s(other)

    def _choose(self, profile: LatencyProfile, limit: int, now: float) -> tuple[list[int], float]:
        """Returns the places of the next call's requests, and its value per second."""
        count = len(self._requests)
        limit = min(limit, count)
        rows = self._rows[:, :count]
        full_s = profile.typical(limit)
        value = _values(rows, now + full_s, full_s / 2)
        value *= rows[_WEIGHT] * (1.0 + np.maximum(now - rows[_SINCE], 0.0) / TAU_S)
        order = self._best(value, rows[_ARRIVAL], limit)
        turn = int(rows[_TURN].argmin())
        is_turn = rows[_TURN, turn] <= now and (limit > 1 or self._calls_since_turn >= OWN_SHARE)
        if is_turn:
            order = [turn, *(place for place in order if place != turn)][:limit]
        if not profile.known:
            return order, math.inf
        latency_s = np.array([max(profile.typical(size), 1e-6) for size in range(1, limit + 1)])
        chosen = rows[:, order]
        each = _values(chosen[:, np.newaxis, :], now + latency_s[:, np.newaxis], full_s / 2)
        each *= chosen[_WEIGHT] * (1.0 + np.maximum(now - chosen[_SINCE], 0.0) / TAU_S)
        rates = np.tril(each).sum(axis=1) / latency_s
        size = int(rates.argmax())
        return order[: size + 1], float(rates[size])

    @staticmethod
    def _best(value: np.ndarray, arrival: np.ndarray, limit: int) -> list[int]:
        if len(value) > 4 * limit:
            among = np.argpartition(-value, limit)[:limit]
            found: list[int] = among[np.lexsort((arrival[among], -value[among]))].tolist()
        else:
            found = np.lexsort((arrival, -value))[:limit].tolist()
        return found


def _values(rows: np.ndarray, answered_at: np.ndarray | float, next_s: float) -> np.ndarray:
    """Returns half the gain, and half of what of it is lost if the answer comes `next_s` later."""
    begins_at = np.maximum(rows[_RUNS_OUT], answered_at)
    gain = np.minimum(rows[_COVERS], answered_at + rows[_PLAYS]) - begins_at
    gain = np.minimum(np.maximum(gain, 0.0), rows[_MOST])
    lost = np.minimum(gain, np.maximum(answered_at + next_s - begins_at, 0.0))
    return np.asarray((gain + lost) / 2 + _LEAST_GAIN_S)
