"""All metrics by name: where they are recorded and asked for.

What is recorded when is the server's business (`metrics.recorder`).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inferential.metrics.callbacks import CallbackRegistry, MetricCallback
from inferential.metrics.store import Labels, MetricSeries, MetricStats, stats_of

if TYPE_CHECKING:
    from inferential.config.schema import MetricsConfig

_RING_BUFFER_SIZE = 10000
_MAX_LABEL_SETS = 4096


@dataclass(frozen=True, slots=True)
class MetricSnapshot:
    """All points there are: by name, a list of {"timestamp", "value", "labels"}, oldest first."""

    metrics: dict[str, list[dict[str, Any]]]


class MetricsCollector:
    """Records metrics and answers questions about them.

    Timestamps are seconds of `time.monotonic()`. Every method may be called from any thread; callbacks run in the
    thread that records.
    """

    def __init__(self, config: MetricsConfig | None = None) -> None:
        self._series: dict[str, MetricSeries] = {}
        self._lock = threading.Lock()  # held for what is short: points are copied under it and worked on outside
        self._callbacks = CallbackRegistry()
        self._enabled = True
        self._ring_buffer_size = _RING_BUFFER_SIZE
        self._max_label_sets = _MAX_LABEL_SETS
        if config is not None:
            self.configure(config)

    def configure(self, config: MetricsConfig) -> None:
        """Other bounds hold from now on; what was recorded stays as far as it fits."""
        self._enabled = config.enabled
        bounds = (config.ring_buffer_size, config.max_label_sets)
        with self._lock:
            if bounds != (self._ring_buffer_size, self._max_label_sets):
                self._ring_buffer_size, self._max_label_sets = bounds
                for series in self._series.values():
                    series.resize(*bounds)

    def record(self, name: str, value: float, labels: dict[str, str] | None = None) -> None:
        """Adds a point to a metric, and calls the callbacks.

        Raises:
            TypeError, ValueError: `value` is no number; nothing is recorded then.
        """
        if not self._enabled:
            return
        with self._lock:
            series = self._series.get(name)
            if series is None:
                series = self._series[name] = MetricSeries(self._ring_buffer_size, self._max_label_sets)
            series.record(value, labels)
        if self._callbacks:
            self._callbacks.fire(name, value, labels or {})

    def get_latest(self, name: str, labels: dict[str, str] | None = None) -> float | None:
        """The newest value of a metric whose labels include these; None if there is none."""
        with self._lock:
            series = self._series.get(name)
            return None if series is None else series.get_latest(labels)

    def get_stats(
        self, name: str, labels: dict[str, str] | None = None, window_seconds: float = 300
    ) -> MetricStats | None:
        """Statistics of a metric's points of the last `window_seconds` whose labels include these; None if none."""
        with self._lock:
            series = self._series.get(name)
            if series is None:
                return None
            values = series.window(labels, window_seconds)
        return stats_of(values)

    def snapshot(self) -> MetricSnapshot:
        """All points there are."""
        with self._lock:
            copies = {name: iter(series) for name, series in self._series.items()}
        return MetricSnapshot(
            {
                name: [{"timestamp": point.timestamp, "value": point.value, "labels": point.labels} for point in points]
                for name, points in copies.items()
            }
        )

    def on_metric(self, callback: MetricCallback) -> MetricCallback:
        """Has `callback(name, value, labels)` called for every point; a decorator.

        What is recorded while a callback runs is kept, and told to the other callbacks.

        Raises:
            TypeError: it is a coroutine function.
        """
        self._callbacks.register(callback)
        return callback

    def forget(self, *labels: Labels) -> None:
        """Drops all points, of every metric, whose labels include any of these."""
        with self._lock:
            for series in self._series.values():
                series.forget(*labels)
