"""What each model takes at once, by its backend and the configuration together.

It knows nothing of what runs: the scheduler's `running` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferential.dispatch.base import Dispatcher
from inferential.scheduler.running import Capacity

if TYPE_CHECKING:
    from inferential.config.schema import ModelsConfig

_REMEMBERED = 1024  # any id may be that of a model, where the backend does not know its models


class Capacities:
    """Capacities by model, remembered until the backend or the configuration changes.

    Args:
        dispatcher: the backend.
        config: what the operator allows.
    """

    def __init__(self, dispatcher: Dispatcher, config: ModelsConfig) -> None:
        self._dispatcher = dispatcher
        self._config = config
        self._known: dict[str, Capacity] = {}

    def of(self, model_id: str) -> Capacity:
        """What a model takes."""
        capacity = self._known.get(model_id)
        if capacity is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            capacity = self._known[model_id] = self._worked_out(model_id)
        return capacity

    def forget(self) -> None:
        """The backend has changed."""
        self._known.clear()

    def configure(self, config: ModelsConfig) -> None:
        """The configuration has changed."""
        self._config = config
        self._known.clear()

    def _worked_out(self, model_id: str) -> Capacity:
        known = self._config.known.get(model_id)
        max_batch_size = self._dispatcher.max_batch_size(model_id)
        max_inflight = self._config.default_max_inflight
        takes = self._dispatcher.max_inflight(model_id)
        if takes is not None:
            max_inflight = takes
        if known is not None:
            if known.max_batch_size is not None and max_batch_size > 1:
                max_batch_size = known.max_batch_size
            if known.max_inflight is not None and takes != 0:
                max_inflight = known.max_inflight
        most = self._dispatcher.most_inflight(model_id)
        if most is not None:
            max_inflight = min(max_inflight, most)  # what is above would wait there, and not here
        return Capacity(
            max(0, max_inflight - self._dispatcher.lost_slots(model_id)),
            max_batch_size,
            tuple(self._dispatcher.replicas(model_id)),
            None if known is None else known.device,
        )
