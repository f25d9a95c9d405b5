"""All metrics by name: recording and reading. What the server records when is in `metrics.recorder`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from inferential.metrics.callbacks import CallbackRegistry, MetricCallback
from inferential.metrics.store import Labels, LabelSet, MetricSeries, MetricStats, Rows, repeated, stats_of

if TYPE_CHECKING:
    from inferential.config.schema import MetricsConfig

_RING_BUFFER_SIZE = 10000
_MAX_LABEL_SETS = 4096
_FLUSH_AFTER_ROWS = 64  # more would be cheaper per row, and delay the request during which they are flushed
_FLUSH_SPREAD_ROWS = 9  # added for each further group, so that not all groups are flushed during one request


@dataclass(frozen=True, slots=True)
class MetricSnapshot:
    """All stored points: by name, a list of {"timestamp", "value", "labels"}, oldest first."""

    metrics: dict[str, list[dict[str, Any]]]


Row = tuple[float, LabelSet, tuple[float, ...]]
"""Seconds of `time.monotonic()`, labels, and a value for each metric of a group."""


class Table(NamedTuple):
    """Points of metrics that share their times and labels: by metric a column, with a value for each time."""

    names: Sequence[str]
    times: Sequence[float]
    keys: Sequence[LabelSet]
    columns: Sequence[Sequence[float]]


TablesOf = Callable[[Sequence[Any]], Iterable[Table]]
"""Returns what rows mean. It may be called in any thread."""


Sink = Callable[[str, Sequence[float], Sequence[LabelSet]], None]
"""Called with a metric's name, values, and the labels of each."""


class MetricGroup:
    """Metrics of one event, recorded together. Made by `MetricsCollector.group`."""

    __slots__ = ("flush_at", "names", "overlapping", "rows", "runs", "tables_of")

    def __init__(self, names: tuple[str, ...], flush_at: int, tables_of: TablesOf | None) -> None:
        self.names: tuple[str, ...] = names
        self.flush_at: int = flush_at
        self.tables_of: TablesOf = tables_of or self._table_of
        self.overlapping: list[MetricGroup] = [
            self
        ]  # groups that share a metric with this one, oldest first: flushed together
        self.rows: deque[Any] = deque()  # whose append and popleft need no lock
        self.runs: deque[tuple[Row, int]] = deque()  # of groups that `add_run` records; these have no `rows`

    def _table_of(self, rows: Sequence[Row]) -> tuple[Table]:
        times, keys, values = zip(*rows, strict=True)
        return (Table(self.names, times, keys, list(zip(*values, strict=True))),)


class MetricsCollector:
    """Records metrics and answers questions about them.

    Timestamps are seconds of `time.monotonic()`. Every method may be called from any thread; callbacks run in the
    thread that records.

    What the server records of every request goes through groups: rows are buffered until there are some dozens or a
    metric is read, so that a row of five metrics costs what one `record` does. With callbacks registered, rows are
    not buffered.
    """

    def __init__(self, config: MetricsConfig | None = None) -> None:
        self._groups: list[MetricGroup] = []
        self._grouped: frozenset[str] = frozenset()
        self._series: dict[str, MetricSeries] = {}
        self._lock = threading.Lock()  # held briefly: points are copied under it and evaluated outside
        self._callbacks = CallbackRegistry()
        self._buffers = True  # enabled, and without callbacks; read by `add` several times a request
        self._sinks: list[Sink] = []
        self._enabled = True
        self._ring_buffer_size = _RING_BUFFER_SIZE
        self._max_label_sets = _MAX_LABEL_SETS
        if config is not None:
            self.configure(config)

    def configure(self, config: MetricsConfig) -> None:
        """Applies changed limits; recorded points stay as far as they fit."""
        self._enabled = config.enabled
        self._buffers = self._enabled and not self._callbacks
        bounds = (config.ring_buffer_size, config.max_label_sets)
        with self._lock:
            self._flush()
            if bounds != (self._ring_buffer_size, self._max_label_sets):
                self._ring_buffer_size, self._max_label_sets = bounds
                for series in self._series.values():
                    series.resize(*bounds)

    def record(self, name: str, value: float, labels: dict[str, str] | None = None) -> None:
        """Adds a point to a metric, and calls the callbacks.

        Raises:
            TypeError, ValueError: `value` is not a number; nothing is recorded then.
        """
        if not self._enabled:
            return
        with self._lock:
            if name in self._grouped:
                self._flush()  # points are stored in the order of their times
            self._series_of(name).record(value, labels)
            for sink in self._sinks:
                sink(name, (value,), (tuple(labels.items()) if labels else (),))
        if self._callbacks:
            self._callbacks.fire(name, value, labels or {})

    def group(self, *names: str, tables_of: TablesOf | None = None) -> MetricGroup:
        """Returns a group of metrics that are recorded together.

        Args:
            names: of the metrics.
            tables_of: returns what rows mean that `add_rows` records. None: they are as `add` makes them, with a value
                for each metric.
        """
        group = MetricGroup(names, _FLUSH_AFTER_ROWS + _FLUSH_SPREAD_ROWS * len(self._groups), tables_of)
        for other in self._groups:
            if not set(names).isdisjoint(other.names):
                other.overlapping.append(group)
                group.overlapping.insert(-1, other)
        self._groups.append(group)
        self._grouped |= set(names)
        return group

    def add(self, group: MetricGroup, at: float, labels: LabelSet, values: tuple[float, ...]) -> None:
        """Records one event.

        Args:
            group: its metrics.
            at: its time, in seconds of `time.monotonic()`.
            labels: pairs of name and value.
            values: one float for each metric of the group.
        """
        self.add_rows(group, ((at, labels, values),))

    def add_rows(self, group: MetricGroup, rows: Iterable[Any]) -> None:
        """Records events as they came; what they mean is found when they are flushed, for all of them together."""
        if self._buffers:
            buffered = group.rows
            buffered.extend(rows)
            if len(buffered) >= group.flush_at:
                with self._lock:
                    self._flush(group.overlapping)
        elif self._enabled:
            for row in rows:
                self._add_now(group, row)

    def _add_now(self, group: MetricGroup, row: Any) -> None:
        group.rows.append(row)
        with self._lock:
            self._flush()
        for names, _, keys, columns in group.tables_of((row,)):
            for name, column in zip(names, columns, strict=True):
                for key, value in zip(keys, column, strict=True):
                    self._callbacks.fire(name, value, dict(key))

    def add_run(self, group: MetricGroup, row: Row, count: int) -> None:
        """Records the same event so many times; a group gets either all its events by this, or none."""
        if not self._buffers:
            for _ in range(count):
                self.add(group, *row)
            return
        group.runs.append((row, count))
        if len(group.runs) >= group.flush_at:
            with self._lock:
                self._flush(group.overlapping)

    def _flush(self, groups: Sequence[MetricGroup] | None = None) -> None:
        """Flushes buffered rows, of all groups or of these, into their series; the caller holds the lock."""
        for group in self._groups if groups is None else groups:
            buffered = group.rows
            if not buffered:
                if group.runs:
                    self._flush_runs(group)
                continue
            for names, times, keys, columns in group.tables_of([*map(deque.popleft, repeat(buffered, len(buffered)))]):
                rows = Rows.of(times, keys)
                for name, column in zip(names, columns, strict=True):
                    self._series_of(name).extend(rows, column)
                    for sink in self._sinks:
                        sink(name, column, keys)

    def _flush_runs(self, group: MetricGroup) -> None:
        runs = [group.runs.popleft() for _ in range(len(group.runs))]
        counts = [count for _, count in runs]
        rows = Rows.of_runs([row[0] for row, _ in runs], [row[1] for row, _ in runs], counts)
        for number, name in enumerate(group.names):
            column = repeated([row[2][number] for row, _ in runs], counts)
            self._series_of(name).extend(rows, column)
            for sink in self._sinks:
                sink(name, column, [rows.label_sets[index] for index in rows.indexes])

    def _series_of(self, name: str) -> MetricSeries:
        series = self._series.get(name)
        if series is None:
            series = self._series[name] = MetricSeries(self._ring_buffer_size, self._max_label_sets)
        return series

    def get_latest(self, name: str, labels: dict[str, str] | None = None) -> float | None:
        """Returns the newest value of a metric whose labels include these; None if there is none."""
        with self._lock:
            self._flush()
            series = self._series.get(name)
            return None if series is None else series.get_latest(labels)

    def get_stats(
        self, name: str, labels: dict[str, str] | None = None, window_seconds: float = 300
    ) -> MetricStats | None:
        """Returns statistics of a metric's newest points, in the metric's unit; None if there are none.

        Args:
            name: the metric.
            labels: only points whose labels include these.
            window_seconds: only points at most this old.
        """
        with self._lock:
            self._flush()
            series = self._series.get(name)
            if series is None:
                return None
            values = series.window(labels, window_seconds)
        return stats_of(values)

    def snapshot(self) -> MetricSnapshot:
        """Returns all stored points."""
        with self._lock:
            self._flush()
            copies = {name: iter(series) for name, series in self._series.items()}
        return MetricSnapshot(
            {
                name: [{"timestamp": point.timestamp, "value": point.value, "labels": point.labels} for point in points]
                for name, points in copies.items()
            }
        )

    def on_metric(self, callback: MetricCallback) -> MetricCallback:
        """Registers `callback(name, value, labels)`, called for every point; a decorator.

        A callback is not called for what it records itself; the other callbacks are.

        Raises:
            TypeError: it is a coroutine function.
        """
        self._callbacks.register(callback)
        self._buffers = False
        return callback

    def add_sink(self, sink: Sink) -> None:
        """Registers a function that is called with all points recorded from now on, some dozens at a time.

        Unlike a callback it costs a request next to nothing; `flush` brings it up to date. It must neither raise nor
        record.
        """
        with self._lock:
            self._flush()
            self._sinks.append(sink)

    def flush(self) -> None:
        """Flushes what was recorded so far into series and sinks."""
        with self._lock:
            self._flush()

    def forget(self, *labels: Labels) -> None:
        """Drops labels that name what is gone, of every metric; the points stay (see `MetricSeries.forget`)."""
        with self._lock:
            self._flush()
            for series in self._series.values():
                series.forget(*labels)

    def sizes(self) -> dict[str, int]:
        """Returns the number of series, label sets, points and buffered rows."""
        with self._lock:
            return {
                "metric_series": len(self._series),
                "metric_label_sets": sum(series.label_set_count for series in self._series.values()),
                "metric_points": sum(map(len, self._series.values())),
                "metric_rows_buffered": sum(len(group.rows) + len(group.runs) for group in self._groups),
            }
