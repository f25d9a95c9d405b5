"""When the newest calls of each model began, from which follows what the time of an answer was spent on."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from itertools import repeat
from operator import attrgetter

from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.running import Batch
from inferential.scheduler.time.profile import Profiles
from inferential.tracking.lateness import ServerTimes

_WAITED_S = 1e-3  # for less than that it is not asked what a request waited for
_REMEMBERED_CALLS = 64
_TAKEN = attrgetter("received_at", "dispatched_at", "sent_at", "deadline", "inference_ms")
# As `ServerTimes`, of a request that had its call to itself, at once.
_ALONE = attrgetter(
    "received_at", "dispatched_at", "sent_at", "deadline", "dispatched_at", "inference_ms", "inference_ms"
)


class CallTimes:
    """The beginnings of calls, by pool.

    Args:
        profiles: how long calls take.
    """

    def __init__(self, profiles: Profiles) -> None:
        self._profiles = profiles
        self._calls: dict[str, deque[float]] = {}  # oldest first

    def began(self, batch: Batch) -> None:
        """Notes a call; each began later than those before."""
        calls = self._calls.get(batch.model_id)
        if calls is None:
            calls = self._calls[batch.model_id] = deque(maxlen=_REMEMBERED_CALLS)
        calls.append(batch.started_at)

    def of(self, requests: Sequence[InferenceRequest]) -> list[ServerTimes]:
        """Returns the times of the answers to requests of one call, which have been sent."""
        request = requests[0]
        if len(requests) == 1 == request.rows and request.dispatched_at - request.received_at <= _WAITED_S:
            return [tuple.__new__(ServerTimes, _ALONE(request))]
        calls = tuple(self._calls.get(request.pool, ()))
        alone_ms = 0.0 if request.rows == 1 else self._profiles.of(request.pool).typical(1) * 1e3
        count = len(calls)
        received, dispatched, sent, deadlines, inference_ms = zip(*map(_TAKEN, requests), strict=True)
        first_calls = [
            calls[place] if place < count and dispatched_at - received_at > _WAITED_S else dispatched_at
            for place, received_at, dispatched_at in zip(
                map(bisect_left, repeat(calls), received), received, dispatched, strict=True
            )
        ]
        alone = repeat(alone_ms) if alone_ms else inference_ms
        times = zip(received, dispatched, sent, deadlines, first_calls, inference_ms, alone)  # noqa: B905 (`repeat`)
        return list(map(tuple.__new__, repeat(ServerTimes), times))
