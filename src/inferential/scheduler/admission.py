"""How a request enters: staged for a call of its own where it may bypass the queues, else into its client's queue.

It decides no order and no call. A request may bypass the queues where nothing that waits could go before it: nothing
waits for its model, and the strategy would not keep it waiting. It is staged until the engine either calls its model
with it or looks at the queues, which `queues` returns with all that is staged entered first. There is no other way to
the queues, so a staged request cannot be overlooked.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import TYPE_CHECKING

from inferential.scheduler.base import Scheduler
from inferential.scheduler.client_queue import Key
from inferential.scheduler.client_queues import ClientQueues
from inferential.scheduler.floods import Floods
from inferential.scheduler.request import DISPATCHED, InferenceRequest
from inferential.scheduler.time.availability import ALWAYS_AVAILABLE, Availability

if TYPE_CHECKING:
    from inferential.config.schema import SchedulingConfig


class Admission:
    """All requests that are not dispatched: those in the clients' queues, and the staged ones.

    Args:
        config: limits of the queues.
        scheduler: the strategy that orders the clients' requests.
        availability: when replicas can begin calls, for strategies that go by time.

    Attributes:
        staged: requests that may bypass the queues, by model and client; read it, and take by `take_staged`.
        running_in_order: what runs that others of its robot wait for.
        floods: what waits for a moment at which no other client is expected.
    """

    def __init__(
        self, config: SchedulingConfig, scheduler: Scheduler, availability: Availability = ALWAYS_AVAILABLE
    ) -> None:
        self._queues = ClientQueues(config, scheduler, availability)
        self.staged: dict[str, dict[str, InferenceRequest]] = {}
        self.running_in_order: Sized = self._queues.running_in_order
        self.floods: Floods[Key] = self._queues.floods

    @property
    def scheduler(self) -> Scheduler:
        """The strategy in charge."""
        return self._queues.scheduler

    @property
    def queues(self) -> ClientQueues:
        """The clients' queues, once what was taken has left them, and all that was staged has entered."""
        queues = self._queues
        if queues.leaving:
            queues.settle()
        if self.staged:
            self._enter_staged()
        return queues

    @property
    def _settled(self) -> ClientQueues:
        if self._queues.leaving:
            self._queues.settle()
        return self._queues

    def _enter_staged(self) -> None:
        groups, self.staged = self.staged, {}
        for group in groups.values():
            for request in group.values():
                if request.in_order:
                    self._queues.released(request, request.received_at)
                self._queues.offer(request, request.received_at)

    def waiting(self, model_id: str | None = None) -> int:
        """Returns how many requests wait, for one model or for all; staged ones count."""
        if model_id is None:
            return len(self._settled) + (sum(map(len, self.staged.values())) if self.staged else 0)
        return self._settled.waiting(model_id) + len(self.staged.get(model_id, ()))

    def ready(self, model_id: str) -> int:
        """Returns how many requests of a model may run now: not those held behind others of their robot, nor floods."""
        return self._queues.shown(model_id) + len(self.staged.get(model_id, ()))

    def waits(self, connection: int) -> int:
        """Returns how many requests of a connection wait; staged ones, which are about to be dispatched, do not."""
        queues = self._queues
        if queues.leaving:
            queues.settle()
        return queues.waits(connection)

    def supersedes(self, request: InferenceRequest) -> bool:
        """Returns whether a new request would take the place of one that waits; of a staged one, it would not."""
        return self._settled.supersedes(request)

    def sizes(self) -> dict[str, int]:
        """Returns the number of rows in each table; all are 0 where nothing waits."""
        return self._settled.sizes() | {"queue_staged": sum(map(len, self.staged.values()))}

    def ended(self) -> list[InferenceRequest]:
        """Returns the requests that were refused since the last call."""
        return self._queues.ended()

    def can_bypass(self, request: InferenceRequest) -> bool:
        """Returns whether nothing that waits could go before a new request, so that it may be staged."""
        queues = self._queues
        if queues.leaving:
            queues.settle()
        group = self.staged.get(request.pool)
        if group is None:
            return queues.is_alone(request)
        return request.client_id not in group and (not request.pace_s or queues.may_follow(request))

    def stage(self, request: InferenceRequest) -> None:
        """Keeps a new request for which `can_bypass` is true, as others for the same model may follow at once."""
        self.staged.setdefault(request.pool, {})[request.client_id] = request
        if request.in_order:
            self._queues.dispatched(request, request.received_at)  # one for another pool would wait for it, too

    def take_staged(self, model_id: str) -> list[InferenceRequest]:
        """Takes all staged requests of a model and marks them as dispatched."""
        requests = list(self.staged.pop(model_id).values())
        for request in requests:
            request.move(DISPATCHED)
            if request.pace_s:
                self._queues.dispatched(request, request.received_at)
        return requests
