"""All metrics by name: where they are recorded and asked for.

What is recorded when is the server's business (`metrics.recorder`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inferential.metrics.callbacks import CallbackRegistry, MetricCallback
from inferential.metrics.store import Labels, LabelSet, MetricSeries, MetricStats, Rows, stats_of

if TYPE_CHECKING:
    from inferential.config.schema import MetricsConfig

_RING_BUFFER_SIZE = 10000
_MAX_LABEL_SETS = 4096
_ROWS_AT_ONCE = 64  # more would cost each less, and hold up the one that comes meanwhile
_ROWS_APART = 9  # by which forms differ, so that not all of them are filed in the midst of the same request


@dataclass(frozen=True, slots=True)
class MetricSnapshot:
    """All points there are: by name, a list of {"timestamp", "value", "labels"}, oldest first."""

    metrics: dict[str, list[dict[str, Any]]]


Row = tuple[float, LabelSet, tuple[float, ...]]
"""Seconds of `time.monotonic()`, labels, and a value for each of a form's metrics."""


Sink = Callable[[str, Sequence[float], Sequence[LabelSet]], None]
"""Called with a metric's name, values, and the labels of each."""


class Form:
    """Metrics that are recorded together: of one event, with one set of labels. Made by `MetricsCollector.form`."""

    __slots__ = ("at_once", "kin", "names", "rows")

    def __init__(self, names: tuple[str, ...], at_once: int) -> None:
        self.names = names
        self.at_once = at_once
        self.kin = [self]  # forms that share a metric with this one, oldest first: they are filed together
        self.rows: deque[Row] = deque()  # whose append and popleft need no lock


class MetricsCollector:
    """Records metrics and answers questions about them.

    Timestamps are seconds of `time.monotonic()`. Every method may be called from any thread; callbacks run in the
    thread that records.

    What the server records of every request goes through forms: rows wait, unsorted, until there are some dozens
    of them or somebody asks, which makes a row of five metrics cost what one `record` does. Where callbacks are
    registered, rows do not wait.
    """

    def __init__(self, config: MetricsConfig | None = None) -> None:
        self._forms: list[Form] = []
        self._formed: frozenset[str] = frozenset()
        self._series: dict[str, MetricSeries] = {}
        self._lock = threading.Lock()  # held for what is short: points are copied under it and worked on outside
        self._callbacks = CallbackRegistry()
        self._called = False  # whether there are any, which `add` asks four times a request
        self._sinks: list[Sink] = []
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
            self._file()
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
            if name in self._formed:
                self._file()  # points stand in the order of their times
            self._series_of(name).record(value, labels)
            for sink in self._sinks:
                sink(name, (value,), (tuple(labels.items()) if labels else (),))
        if self._callbacks:
            self._callbacks.fire(name, value, labels or {})

    def form(self, *names: str) -> Form:
        """Metrics that `add` records together."""
        form = Form(names, _ROWS_AT_ONCE + _ROWS_APART * len(self._forms))
        for other in self._forms:
            if not set(names).isdisjoint(other.names):
                other.kin.append(form)
                form.kin.insert(-1, other)
        self._forms.append(form)
        self._formed |= set(names)
        return form

    def add(self, form: Form, at: float, labels: LabelSet, values: tuple[float, ...]) -> None:
        """Records one event.

        Args:
            form: its metrics.
            at: when it was, in seconds of `time.monotonic()`.
            labels: pairs of name and value.
            values: one float for each metric of the form.
        """
        if not self._enabled:
            return
        rows = form.rows
        rows.append((at, labels, values))
        if self._called:
            with self._lock:
                self._file()
            for name, value in zip(form.names, values, strict=True):
                self._callbacks.fire(name, value, dict(labels))
        elif len(rows) >= form.at_once:
            with self._lock:
                self._file(form.kin)

    def _file(self, forms: Sequence[Form] | None = None) -> None:
        """Puts the rows that wait, of all forms or of these, where they are found; the lock is held."""
        for form in self._forms if forms is None else forms:
            waiting = form.rows
            if not waiting:
                continue
            times, keys, values = zip(*[waiting.popleft() for _ in range(len(waiting))], strict=True)
            rows = Rows.of(times, keys)
            for name, column in zip(form.names, zip(*values, strict=True), strict=True):
                self._series_of(name).extend(rows, column)
                for sink in self._sinks:
                    sink(name, column, keys)

    def _series_of(self, name: str) -> MetricSeries:
        series = self._series.get(name)
        if series is None:
            series = self._series[name] = MetricSeries(self._ring_buffer_size, self._max_label_sets)
        return series

    def get_latest(self, name: str, labels: dict[str, str] | None = None) -> float | None:
        """The newest value of a metric whose labels include these; None if there is none."""
        with self._lock:
            self._file()
            series = self._series.get(name)
            return None if series is None else series.get_latest(labels)

    def get_stats(
        self, name: str, labels: dict[str, str] | None = None, window_seconds: float = 300
    ) -> MetricStats | None:
        """Statistics of a metric's points of the last `window_seconds` whose labels include these; None if none."""
        with self._lock:
            self._file()
            series = self._series.get(name)
            if series is None:
                return None
            values = series.window(labels, window_seconds)
        return stats_of(values)

    def snapshot(self) -> MetricSnapshot:
        """All points there are."""
        with self._lock:
            self._file()
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
        self._called = True
        return callback

    def pour_into(self, sink: Sink) -> None:
        """Has `sink` called with all points that are recorded from now on, some dozens at a time.

        That costs a request next to nothing, unlike a callback; `settle` brings it up to date. It must not raise, nor
        record.
        """
        with self._lock:
            self._file()
            self._sinks.append(sink)

    def settle(self) -> None:
        """Hands on, and puts in their places, what was recorded so far."""
        with self._lock:
            self._file()

    def forget(self, *labels: Labels) -> None:
        """Drops all points, of every metric, whose labels include any of these."""
        with self._lock:
            self._file()
            for series in self._series.values():
                series.forget(*labels)
