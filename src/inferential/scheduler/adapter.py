"""Adapts a scheduler that has only submit, next_batch, tick, status and queue_len to what the server needs.

It keeps the order of `next_batch`. Requests for a model that is busy are set aside, in that order, until it is free.
What a user's scheduler raises is logged, and ends one request at most; it is asked again.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from typing import Any

from inferential.scheduler.asked import Asked
from inferential.scheduler.base import ModelAwareScheduler, QueueFullError, Scheduler
from inferential.scheduler.request import QUEUE_FULL, InferenceRequest, Refusal, RefusalKind, RequestState

TICK_S = 0.01
"""Seconds until a scheduler is asked again whose requests wait and whose `next_batch` returned nothing."""


def refusal_of(error: Exception) -> Refusal:
    """Returns the refusal of a request that a scheduler does not take, as it raises."""
    if isinstance(error, QueueFullError):
        return Refusal(RefusalKind.REJECTED, "the scheduler takes no more requests", QUEUE_FULL)
    text = f"the scheduler failed: {type(error).__name__}: {error}"
    return Refusal(RefusalKind.REJECTED, text, "scheduler_failed")


class SchedulerAdapter(ModelAwareScheduler):
    """Makes a model-aware scheduler of a plain `Scheduler`, or of any object with its five methods.

    Args:
        scheduler: the user's; its `window`, `resubmit` and `on_client_...` are used where it has them.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.window: int | None = getattr(scheduler, "window", None)
        self._set_aside: dict[str, dict[InferenceRequest, None]] = {}
        self._gave_nothing_at = -math.inf
        self._asked = Asked(type(scheduler).__name__)

    def submit(self, request: InferenceRequest) -> None:
        self._submit(self._scheduler.submit, request)

    def resubmit(self, request: InferenceRequest) -> None:
        self._submit(getattr(self._scheduler, "resubmit", self._scheduler.submit), request)

    def _submit(self, submit: Callable[[InferenceRequest], None], request: InferenceRequest) -> None:
        self._gave_nothing_at = -math.inf
        self._asked.submit(submit, request)

    def next_batch_for_model(self, model_id: str, limit: int | None = None) -> list[InferenceRequest]:
        """Removes and returns requests of one model; sets those of other models aside that come before them."""
        lane = self._set_aside.get(model_id)
        if lane is None:
            lane = self._ask(model_id)
            if lane is None:
                self._gave_nothing_at = time.monotonic()
                return []
        taken = list(itertools.islice(lane, limit))
        for request in taken:
            del lane[request]
        if not lane:
            del self._set_aside[model_id]
        return taken

    def _ask(self, model_id: str) -> dict[InferenceRequest, None] | None:
        """Takes requests from the user's scheduler until one is for this model.

        It is asked at most as often as it says that requests wait, for it may give the same ones again and again.
        """
        for _ in range(max(self._queue_len(), 0) + 1):
            batch: list[InferenceRequest] = self._asked([], self._scheduler.next_batch)
            if not batch:
                return None
            for request in batch:
                # A request that has ended meanwhile is still in the user's scheduler, which offers no removal.
                if isinstance(request, InferenceRequest) and request.state is RequestState.QUEUED:
                    self._set_aside.setdefault(request.pool, {})[request] = None
            if model_id in self._set_aside:
                return self._set_aside[model_id]
        return None

    def ready_at(self, model_id: str) -> float | None:
        """Returns -inf where requests of the model are set aside, else when to ask again."""
        if model_id in self._set_aside:
            return -math.inf
        return self._gave_nothing_at + TICK_S if self._queue_len() else None

    def _queue_len(self) -> int:
        """Returns how many requests wait in the user's scheduler; 1 where it does not say, so that it is asked."""
        return self._asked(1, self._scheduler.queue_len)

    def remove(self, request: InferenceRequest) -> bool:
        """Removes a request that was set aside; in the user's scheduler it stays, and is skipped when it comes."""
        lane = self._set_aside.get(request.pool)
        if lane is None or request not in lane:
            return False
        del lane[request]
        if not lane:
            del self._set_aside[request.pool]
        return True

    def tick(self) -> int | None:
        return self._asked(None, self._scheduler.tick)

    def models(self) -> list[str]:
        return list(self._set_aside)

    def queue_len_for_model(self, model_id: str) -> int:
        return len(self._set_aside.get(model_id, ()))

    def on_client_connected(self, client_id: str) -> None:
        if hasattr(self._scheduler, "on_client_connected"):
            self._asked(None, self._scheduler.on_client_connected, client_id)

    def on_client_disconnected(self, client_id: str) -> None:
        if hasattr(self._scheduler, "on_client_disconnected"):
            self._asked(None, self._scheduler.on_client_disconnected, client_id)

    def status(self) -> dict[str, Any]:
        return self._asked({}, self._scheduler.status)

    def queue_len(self) -> int:
        return self._queue_len() + sum(map(len, self._set_aside.values()))
