"""When the newest calls of each model began, from which follows what the time of an answer was spent on."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.running import Batch
from inferential.scheduler.time.profile import Profiles
from inferential.tracking.lateness import ServerTimes

_WAITED_S = 1e-3  # for less than that it is not asked what a request waited for
_REMEMBERED_CALLS = 64


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

    def of(
        self, request: InferenceRequest, inference_ms: float, sent_at: float, alone_ms: dict[str, float]
    ) -> ServerTimes:
        """Returns the times of an answer.

        Args:
            request: that is answered.
            inference_ms: its model's call.
            sent_at: when the answer was sent, in seconds of `time.monotonic()`.
            alone_ms: what was found for other answers of the same moment, by pool; added to.
        """
        received_at, dispatched_at, pool = request.received_at, request.dispatched_at, request.pool
        first_call_at = dispatched_at
        if dispatched_at - received_at > _WAITED_S:
            calls = self._calls.get(pool, ())
            first = bisect_left(calls, received_at)
            if first < len(calls):
                first_call_at = calls[first]
        alone = inference_ms
        if request.rows > 1:
            if pool not in alone_ms:
                alone_ms[pool] = self._profiles.of(pool).typical(1) * 1e3
            alone = alone_ms[pool] or inference_ms
        return ServerTimes(received_at, dispatched_at, sent_at, request.deadline, first_call_at, inference_ms, alone)
