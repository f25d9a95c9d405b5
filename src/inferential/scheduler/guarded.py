"""Guards the server against mistakes of a user's model-aware scheduler, as `adapter.py` does for a plain one.

What it raises is logged, and ends one request at most; it is asked again. Of what it gives, only requests that wait are
taken, once each; what does not fit the call goes back to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from inferential.scheduler.asked import Asked
from inferential.scheduler.base import ModelAwareScheduler
from inferential.scheduler.request import InferenceRequest, RequestState
from inferential.scheduler.time.availability import Availability, ReplicaSlot

_NOW: float | None = -math.inf


class GuardedScheduler(ModelAwareScheduler):
    """Asks a user's scheduler, and answers for it where it raises.

    Args:
        scheduler: the user's.
    """

    def __init__(self, scheduler: ModelAwareScheduler) -> None:
        self._scheduler = scheduler
        self.window: int | None = scheduler.window
        self.may_defer = scheduler.may_defer
        self._asked = Asked(type(scheduler).__name__)

    def submit(self, request: InferenceRequest) -> None:
        self._scheduler.submit(request)

    def resubmit(self, request: InferenceRequest) -> None:
        self._asked.submit(self._scheduler.resubmit, request)

    def next_batch_for_model(self, model_id: str, limit: int | None = None) -> list[InferenceRequest]:
        return self._asked([], self._scheduler.next_batch_for_model, model_id, limit)

    def next_batch_on(self, slot: ReplicaSlot, filled: int = 0) -> list[InferenceRequest]:
        return self._asked([], self._batch_on, slot, filled)

    def _batch_on(self, slot: ReplicaSlot, filled: int) -> list[InferenceRequest]:
        given = self._scheduler.next_batch_on(slot, filled) or ()
        waiting = [one for one in dict.fromkeys(given) if _waits(one)]
        fits = [one for one in waiting if one.pool == slot.model_id][: slot.max_batch_size - filled]
        for request in waiting:
            if request not in fits:
                self._asked(None, self._scheduler.resubmit, request)
        return fits

    def models(self) -> list[str]:
        return self._asked([], self._scheduler.models)

    def queue_len_for_model(self, model_id: str) -> int:
        return self._asked(0, self._scheduler.queue_len_for_model, model_id)

    def remove(self, request: InferenceRequest) -> bool:
        """Removes a request; where that fails it is skipped when it comes."""
        return self._asked(False, self._scheduler.remove, request)

    def ready_at(self, model_id: str) -> float | None:
        return self._asked(_NOW, lambda: _time(self._scheduler.ready_at(model_id)))

    def ready_on(self, slot: ReplicaSlot) -> float | None:
        return self._asked(_NOW, lambda: _time(self._scheduler.ready_on(slot)))

    def eviction_rank(self, request: InferenceRequest) -> int:
        return self._asked(0, lambda: int(self._scheduler.eviction_rank(request)))

    def bind(self, availability: Availability) -> None:
        self._asked(None, self._scheduler.bind, availability)

    def in_turn(self, model_ids: Sequence[str]) -> Sequence[str]:
        return self._asked(model_ids, self._in_turn, model_ids)

    def _in_turn(self, model_ids: Sequence[str]) -> Sequence[str]:
        known = [one for one in dict.fromkeys(self._scheduler.in_turn(model_ids)) if one in model_ids]
        return [*known, *(one for one in model_ids if one not in known)]

    def take_infeasible(self) -> list[tuple[InferenceRequest, str]]:
        return self._asked([], self._infeasible)

    def _infeasible(self) -> list[tuple[InferenceRequest, str]]:
        reasons = {request: str(reason) for request, reason in self._scheduler.take_infeasible()}
        return [(request, reason) for request, reason in reasons.items() if _waits(request)]

    def take_outdated(self) -> list[InferenceRequest]:
        return self._asked([], lambda: list(filter(_waits, self._scheduler.take_outdated())))

    def infeasible_at(self) -> float | None:
        return self._asked(None, lambda: _time(self._scheduler.infeasible_at()))

    def tick(self) -> int | None:
        return self._asked(None, self._scheduler.tick)

    def on_client_connected(self, client_id: str) -> None:
        self._asked(None, self._scheduler.on_client_connected, client_id)

    def on_client_disconnected(self, client_id: str) -> None:
        self._asked(None, self._scheduler.on_client_disconnected, client_id)

    def status(self) -> dict[str, Any]:
        return self._asked({}, self._scheduler.status)

    def queue_len(self) -> int:
        return self._asked(0, self._scheduler.queue_len)


def _waits(request: InferenceRequest) -> bool:
    return isinstance(request, InferenceRequest) and request.state is RequestState.QUEUED


def _time(given: float | None) -> float | None:
    return None if given is None else float(given)
