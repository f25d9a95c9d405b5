"""Requests that wait for a model which is not ready: until when each does. No I/O and no clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from inferential.replica.condition import Condition
from inferential.scheduler.request import NEW, QUEUED, InferenceRequest, Refusal, RefusalKind


def loading_refusal(model_id: str, condition: Condition, now: float) -> Refusal:
    """Returns the end of a request whose model was not ready in time."""
    return Refusal(RefusalKind.MODEL_LOADING, f"model {model_id!r} is {condition.in_words(now)}", "model_loading")


def failing_refusal(model_id: str, condition: Condition, now: float) -> Refusal:
    """Returns the end of a request whose model cannot answer now."""
    return Refusal(RefusalKind.MODEL_FAILING, f"model {model_id!r} is {condition.in_words(now)}", "model_failing")


def gone_refusal(model_id: str) -> Refusal:
    """Returns the end of a request whose model was removed while it waited."""
    return Refusal(RefusalKind.UNKNOWN_MODEL, f"model {model_id!r} is not served any more", "unknown_model")


_WAITING = (NEW, QUEUED)  # a new one is about to be queued


class Holding:
    """The requests in the queue whose pool is not ready, by when each is to be refused."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, InferenceRequest]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, request: InferenceRequest, until: float) -> None:
        """Adds a queued request that may wait until then, in seconds."""
        heapq.heappush(self._heap, (until, request.arrival, request))

    def due_at(self) -> float | None:
        """Returns when `expired` next has something to do; None: nothing waits."""
        while self._heap and self._heap[0][2].state not in _WAITING:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def expired(self, now: float, is_ready: Callable[[InferenceRequest], bool]) -> list[InferenceRequest]:
        """Takes the requests whose time is over, and returns those of pools that are not ready yet."""
        found = []
        while (due := self.due_at()) is not None and due <= now:
            request = heapq.heappop(self._heap)[2]
            if not is_ready(request):
                found.append(request)
        return found
