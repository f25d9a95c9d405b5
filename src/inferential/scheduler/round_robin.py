"""`round_robin`: one from each client in turn, so that no client gets more than its share.

It ignores deadlines and priorities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inferential.scheduler.base import register_scheduler
from inferential.scheduler.lanes import RotationLane
from inferential.scheduler.queued import QueueScheduler
from inferential.scheduler.request import InferenceRequest

if TYPE_CHECKING:
    from inferential.config.schema import SchedulingConfig


@register_scheduler("round_robin")
class RoundRobinScheduler(QueueScheduler[RotationLane]):
    """Serves clients in rotation, each model's apart.

    `next_batch`, which takes of all models, has a rotation of its own.
    """

    strategy = "round_robin"
    may_defer = False

    def __init__(self, config: SchedulingConfig) -> None:
        super().__init__(config)
        self._all = RotationLane()

    def new_lane(self) -> RotationLane:
        return RotationLane()

    def _add(self, request: InferenceRequest) -> None:
        super()._add(request)
        self._all.push(request, 0.0)

    def _forget(self, request: InferenceRequest) -> None:
        super()._forget(request)
        self._all.discard(request)

    def next_batch(self) -> list[InferenceRequest]:
        """Removes and returns the request of the client whose turn it is over all models, alone."""
        taken = self._all.take(1, 0.0)
        for request in taken:
            self._leave_lane(request)
            super()._forget(request)
        return taken

    def status(self) -> dict[str, Any]:
        """Returns what every strategy does, and how many clients have requests waiting."""
        return super().status() | {"active_clients": len({request.client_id for request in self._ages})}
