"""Users' functions that are told of every metric.

Nothing they do can break the server.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

logger = logging.getLogger("inferential.metrics")

MetricCallback = Callable[[str, float, dict[str, str]], None]
"""Called with name, value and labels (its own copy)."""


class CallbackRegistry:
    """Callbacks, in the order they were registered."""

    def __init__(self) -> None:
        self._callbacks: list[MetricCallback] = []
        self._failed: set[MetricCallback] = set()

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def register(self, callback: MetricCallback) -> None:
        """Adds a callback."""
        self._callbacks.append(callback)

    def fire(self, name: str, value: float, labels: dict[str, str]) -> None:
        """Calls them all. One that raises is logged the first time, and called on."""
        for callback in self._callbacks:
            try:
                callback(name, value, dict(labels))
            except Exception:
                if callback not in self._failed:
                    self._failed.add(callback)
                    logger.exception("metric callback %r failed on %s; further failures are not logged", callback, name)
