"""A user's scheduler that knows only submit, next_batch, tick, status and queue_len, made fit for the server.

It adds nothing to the user's order: requests are taken in the order that `next_batch` gives them. What it gives for
a model that is busy is kept aside, in that order, until the model is free.
"""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

from inferential.scheduler.base import ModelAwareScheduler, Scheduler
from inferential.scheduler.request import InferenceRequest, RequestState

TICK_S = 0.01
"""While requests wait that the user's scheduler does not give yet, it is asked again this often."""


class SchedulerAdapter(ModelAwareScheduler):
    """Wraps a plain `Scheduler`, or an object that only looks like one."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.window = getattr(scheduler, "window", None)
        self._set_aside: dict[str, dict[InferenceRequest, None]] = {}
        self._gave_nothing_at = -math.inf

    def submit(self, request: InferenceRequest) -> None:
        self._gave_nothing_at = -math.inf
        self._scheduler.submit(request)

    def resubmit(self, request: InferenceRequest) -> None:
        self._gave_nothing_at = -math.inf
        getattr(self._scheduler, "resubmit", self._scheduler.submit)(request)

    def next_batch_for_model(self, model_id: str, limit: int | None = None) -> list[InferenceRequest]:
        """What the user's scheduler gives for this model; the rest is kept aside for the others."""
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
        for _ in range(max(self._scheduler.queue_len(), 0) + 1):
            batch = self._scheduler.next_batch()
            if not batch:
                return None
            for request in batch:
                # A request that has ended meanwhile is still in the user's scheduler, which offers no removal.
                if request.state is RequestState.QUEUED:
                    self._set_aside.setdefault(request.model_id, {})[request] = None
            if model_id in self._set_aside:
                return self._set_aside[model_id]
        return None

    def ready_at(self, model_id: str) -> float | None:
        """At once, or a tick after it was last asked in vain."""
        if model_id in self._set_aside:
            return -math.inf
        return self._gave_nothing_at + TICK_S if self._scheduler.queue_len() else None

    def remove(self, request: InferenceRequest) -> bool:
        """Forgets it where it was kept aside. The user's scheduler may keep it, but by then it is over."""
        lane = self._set_aside.get(request.model_id)
        if lane is None or request not in lane:
            return False
        del lane[request]
        if not lane:
            del self._set_aside[request.model_id]
        return True

    def tick(self) -> int | None:
        return self._scheduler.tick()

    def models(self) -> list[str]:
        return list(self._set_aside)

    def queue_len_for_model(self, model_id: str) -> int:
        return len(self._set_aside.get(model_id, ()))

    def on_client_connected(self, client_id: str) -> None:
        if hasattr(self._scheduler, "on_client_connected"):
            self._scheduler.on_client_connected(client_id)

    def on_client_disconnected(self, client_id: str) -> None:
        if hasattr(self._scheduler, "on_client_disconnected"):
            self._scheduler.on_client_disconnected(client_id)

    def status(self) -> dict[str, Any]:
        return self._scheduler.status()

    def queue_len(self) -> int:
        return self._scheduler.queue_len() + sum(map(len, self._set_aside.values()))
