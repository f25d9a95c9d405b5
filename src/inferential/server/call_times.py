"""When the newest calls of each model began, from which follows what the time of an answer was spent on."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from operator import attrgetter

from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.running import Batch
from inferential.scheduler.time.profile import Profiles
from inferential.tracking.lateness import ServerTimes

_WAITED_S = 1e-3  # for less than that it is not asked what a request waited for
_REMEMBERED_CALLS = 64
_TAKEN = attrgetter("received_at", "dispatched_at", "sent_at", "deadline", "inference_ms")


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
        pool, is_alone = requests[0].pool, requests[0].rows == 1
        calls = self._calls.get(pool, ())
        alone_ms = 0.0 if is_alone else self._profiles.of(pool).typical(1) * 1e3
        found, new = list[ServerTimes](), tuple.__new__
        for received_at, dispatched_at, sent_at, deadline, inference_ms in map(_TAKEN, requests):
            first_call_at = dispatched_at
            if dispatched_at - received_at > _WAITED_S:
                first = bisect_left(calls, received_at)
                if first < len(calls):
                    first_call_at = calls[first]
            times = received_at, dispatched_at, sent_at, deadline, first_call_at, inference_ms, alone_ms or inference_ms
            found.append(new(ServerTimes, times))  # a third of the time of calling it
        return found
