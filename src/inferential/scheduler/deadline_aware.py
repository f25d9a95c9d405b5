"""`deadline_aware`: the robot that needs an answer most is served first, over all models.

The score is in `score`; `model_deadline` serves one model after the other.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from inferential.scheduler.base import register_scheduler
from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.scored import ScoredScheduler

if TYPE_CHECKING:
    from inferential.config.schema import SchedulingConfig


@register_scheduler("deadline_aware")
class DeadlineAwareScheduler(ScoredScheduler):
    """Serves the highest score first, one request at a time; ties in order of arrival."""

    strategy = "deadline_aware"
    may_defer = False

    def __init__(self, config: SchedulingConfig) -> None:
        super().__init__(config, config.deadline_aware)

    def next_batch(self) -> list[InferenceRequest]:
        """Removes and returns the request with the highest score of all models, alone."""
        if not self._lanes:
            return []
        now = time.monotonic()
        best = min(lane.best(now) for lane in self._lanes.values())
        self.remove(best)
        return [best]
