"""How much each model can run at once, from its backend and the configuration together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferential.dispatch.base import Dispatcher
from inferential.scheduler.request import family_of
from inferential.scheduler.running import Capacity

if TYPE_CHECKING:
    from inferential.config.schema import ModelsConfig

MAX_CACHED = 1024
"""Models whose capacity is cached: with a backend that does not list its models, every id may be one."""


class Capacities:
    """Capacities by model, cached until the backend or the configuration changes.

    Args:
        dispatcher: the backend.
        config: the operator's settings.
    """

    def __init__(self, dispatcher: Dispatcher, config: ModelsConfig) -> None:
        self._dispatcher = dispatcher
        self._config = config
        self._cache: dict[str, Capacity] = {}
        self._begun = True

    def suspend(self) -> None:
        """Makes every capacity 0 until `resume`: the backend has not begun, and no call can."""
        self._begun = False
        self._cache.clear()

    def resume(self) -> None:
        """Makes capacities those of the backend, which has begun."""
        self._begun = True
        self._cache.clear()

    def __len__(self) -> int:
        return len(self._cache)

    def of(self, model_id: str) -> Capacity:
        """Returns the capacity of a model."""
        capacity = self._cache.get(model_id)
        if capacity is None:
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            capacity = self._cache[model_id] = self._compute(model_id)
        return capacity

    def forget(self) -> None:
        """Empties the cache, after the backend has changed."""
        self._cache.clear()

    def configure(self, config: ModelsConfig) -> None:
        """Applies changed settings."""
        self._config = config
        self._cache.clear()

    def _compute(self, model_id: str) -> Capacity:
        settings = self._config.known.get(model_id) or self._config.known.get(family_of(model_id))
        max_batch_size = self._dispatcher.max_batch_size(model_id)
        max_inflight = self._config.default_max_inflight
        backend_inflight = self._dispatcher.max_inflight(model_id)
        if backend_inflight is not None:
            max_inflight = backend_inflight
        if settings is not None:
            if settings.max_batch_size is not None and max_batch_size > 1:
                max_batch_size = settings.max_batch_size
            if settings.max_inflight is not None and backend_inflight != 0:
                max_inflight = settings.max_inflight
        limit = self._dispatcher.max_inflight_limit(model_id)
        if limit is not None:
            max_inflight = min(max_inflight, limit)  # calls above it would wait in the backend instead of here
        return Capacity(
            max(0, max_inflight - self._dispatcher.lost_slots(model_id)) if self._begun else 0,
            max_batch_size,
            tuple(self._dispatcher.replicas(model_id)),
            None if settings is None else settings.device,
        )
