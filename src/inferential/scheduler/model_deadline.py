"""`model_deadline`: models in turn, and within each the robot that needs an answer most first.

The score is in `score`; `deadline_aware` compares over all models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferential.scheduler.base import register_scheduler
from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.scored import ScoredScheduler

if TYPE_CHECKING:
    from inferential.config.schema import SchedulingConfig


@register_scheduler("model_deadline")
class ModelDeadlineScheduler(ScoredScheduler):
    """Keeps a queue for each model, highest score first."""

    strategy = "model_deadline"
    may_defer = False

    def __init__(self, config: SchedulingConfig) -> None:
        super().__init__(config, config.model_deadline)

    def next_batch(self) -> list[InferenceRequest]:
        """Removes and returns the request with the highest score of the model whose turn it is, alone."""
        if not self._lanes:
            return []
        model_id = next(iter(self._lanes))
        self._lanes[model_id] = self._lanes.pop(model_id)  # the last to have its turn again
        return self.next_batch_for_model(model_id)
