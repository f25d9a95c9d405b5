"""All metrics by name: where they are recorded and asked for.

What is recorded when is the server's business (`metrics.recorder`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inferential.metrics.callbacks import CallbackRegistry, MetricCallback
from inferential.metrics.store import MetricSeries, MetricStats

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

    Timestamps are seconds of `time.monotonic()`. One event loop records; reading from other threads sees a state
    that was true a moment ago.
    """

    def __init__(self, config: MetricsConfig | None = None) -> None:
        self._series: dict[str, MetricSeries] = {}
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
        if bounds != (self._ring_buffer_size, self._max_label_sets):
            self._ring_buffer_size, self._max_label_sets = bounds
            for series in self._series.values():
                series.resize(*bounds)

    def record(self, name: str, value: float, labels: dict[str, str] | None = None) -> None:
        """Adds a point to a metric, and calls the callbacks."""
        if not self._enabled:
            return
        series = self._series.get(name)
        if series is None:
            series = self._series[name] = MetricSeries(self._ring_buffer_size, self._max_label_sets)
        series.record(value, labels)
        if self._callbacks:
            self._callbacks.fire(name, value, labels or {})

    def get_latest(self, name: str, labels: dict[str, str] | None = None) -> float | None:
        """The newest value of a metric whose labels include these; None if there is none."""
        series = self._series.get(name)
        return None if series is None else series.get_latest(labels)

    def get_stats(
        self, name: str, labels: dict[str, str] | None = None, window_seconds: float = 300
    ) -> MetricStats | None:
        """Statistics of a metric's points of the last `window_seconds` whose labels include these; None if none."""
        series = self._series.get(name)
        return None if series is None else series.get_stats(labels, window_seconds)

    def snapshot(self) -> MetricSnapshot:
        """All points there are."""
        return MetricSnapshot(
            {
                name: [{"timestamp": point.timestamp, "value": point.value, "labels": point.labels} for point in series]
                for name, series in self._series.items()
            }
        )

    def on_metric(self, callback: MetricCallback) -> MetricCallback:
        """Has `callback(name, value, labels)` called for every point; a decorator."""
        self._callbacks.register(callback)
        return callback

    def forget(self, label: str, values: Iterable[str]) -> None:
        """Drops all points whose `label` has one of these values."""
        gone = set(values)
        for series in self._series.values():
            series.forget(label, gone)
