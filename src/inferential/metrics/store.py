"""The newest points of one metric, and statistics over them.

It knows no names and calls nobody. Points live in three flat arrays that form a ring (time, value, label set), which
takes 20 bytes a point and makes statistics numpy's work.
"""

from __future__ import annotations

import time
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Labels = Mapping[str, str]
_FORGOTTEN = -1


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One recorded value; `timestamp` in seconds of `time.monotonic()`."""

    timestamp: float
    value: float
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class MetricStats:
    """Statistics of the values in a window; percentiles are interpolated linearly, as numpy does."""

    avg: float
    p50: float
    p95: float
    p99: float
    count: int
    min: float
    max: float


class MetricSeries:
    """The newest `max_size` points of a metric, of at most `max_label_sets` combinations of labels.

    A label set beyond that takes the place of the one that was recorded longest ago, whose points go with it.
    """

    __slots__ = (
        "_at",
        "_free",
        "_indexes",
        "_labels",
        "_latest",
        "_max_label_sets",
        "_max_size",
        "_set",
        "_size",
        "_times",
        "_values",
    )

    def __init__(self, max_size: int = 10000, max_label_sets: int = 4096) -> None:
        self._max_size = max_size
        self._max_label_sets = max_label_sets
        self._times = array("d")
        self._values = array("d")
        self._set = array("i")
        self._at = 0  # where the next point goes, once the ring is full
        self._size = 0  # points that were not forgotten
        self._indexes: OrderedDict[tuple[tuple[str, str], ...], int] = OrderedDict()  # longest unused first
        self._labels: dict[int, dict[str, str]] = {}
        self._latest: dict[int, float] = {}
        self._free = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[MetricPoint]:
        """The points, oldest first."""
        for position in self._order():
            index = self._set[position]
            if index != _FORGOTTEN:
                yield MetricPoint(self._times[position], self._values[position], dict(self._labels[index]))

    def record(self, value: float, labels: Labels | None = None) -> None:
        """Adds a point, at this instant. About a microsecond; `labels` may be changed afterwards."""
        key = tuple(labels.items()) if labels else ()
        index = self._indexes.get(key)
        if index is None:
            index = self._new_index(key)
        else:
            self._indexes.move_to_end(key)
        self._latest[index] = value
        if len(self._times) < self._max_size:
            self._times.append(time.monotonic())
            self._values.append(value)
            self._set.append(index)
            self._size += 1
            return
        at = self._at
        if self._set[at] == _FORGOTTEN:
            self._size += 1
        self._times[at] = time.monotonic()
        self._values[at] = value
        self._set[at] = index
        self._at = at + 1 if at + 1 < self._max_size else 0

    def get_latest(self, labels: Labels | None = None) -> float | None:
        """The newest value whose labels include these."""
        for key in reversed(self._indexes):
            index = self._indexes[key]
            if _includes(self._labels[index], labels):
                return self._latest[index]
        return None

    def get_stats(self, labels: Labels | None = None, window_seconds: float = 300) -> MetricStats | None:
        """Statistics of the points of the last `window_seconds` whose labels include these; None if there are none."""
        # Copies: an array that numpy looks into could not grow.
        times, values, sets = (np.array(part) for part in (self._times, self._values, self._set))
        chosen = (times >= time.monotonic() - window_seconds) & (sets != _FORGOTTEN)
        if labels:
            chosen &= np.isin(sets, self._matching(labels))
        found: npt.NDArray[np.float64] = values[chosen]
        if not found.size:
            return None
        p50, p95, p99 = np.percentile(found, (50, 95, 99))
        return MetricStats(
            avg=float(found.mean()),
            p50=float(p50),
            p95=float(p95),
            p99=float(p99),
            count=int(found.size),
            min=float(found.min()),
            max=float(found.max()),
        )

    def forget(self, label: str, values: set[str]) -> None:
        """Drops all points whose `label` is one of `values`, and their label sets."""
        gone = [key for key, index in self._indexes.items() if self._labels[index].get(label) in values]
        if gone:
            self._drop(gone)

    def resize(self, max_size: int, max_label_sets: int) -> None:
        """Other bounds; the newest points stay."""
        order = self._order()[-max_size:]
        self._times = array("d", [self._times[position] for position in order])
        self._values = array("d", [self._values[position] for position in order])
        self._set = array("i", [self._set[position] for position in order])
        self._size = sum(index != _FORGOTTEN for index in self._set)
        self._at = 0
        self._max_size, self._max_label_sets = max_size, max_label_sets
        self._drop(list(self._indexes)[: max(len(self._indexes) - max_label_sets, 0)])

    def _new_index(self, key: tuple[tuple[str, str], ...]) -> int:
        # The same labels in another order are the same label set.
        known = tuple(sorted(key))
        if known != key and known in self._indexes:
            self._indexes.move_to_end(known)
            return self._indexes[known]
        if len(self._indexes) >= self._max_label_sets:
            # A good part at once: dropping looks at every point.
            self._drop(list(self._indexes)[: max(self._max_label_sets // 8, 1)])
        index = self._free
        self._free += 1
        self._indexes[known] = index
        self._labels[index] = dict(key)
        return index

    def _drop(self, keys: list[tuple[tuple[str, str], ...]]) -> None:
        if not keys:
            return
        indexes = [self._indexes.pop(key) for key in keys]
        for index in indexes:
            del self._labels[index]
            self._latest.pop(index, None)
        sets = np.array(self._set)
        sets[np.isin(sets, indexes)] = _FORGOTTEN
        self._set = array("i", sets.tobytes())
        self._size = int(np.count_nonzero(sets != _FORGOTTEN))
        if not self._size:
            self._times, self._values, self._set, self._at = array("d"), array("d"), array("i"), 0

    def _matching(self, labels: Labels) -> list[int]:
        return [index for index, own in self._labels.items() if _includes(own, labels)]

    def _order(self) -> list[int]:
        size = len(self._times)
        return [*range(self._at, size), *range(self._at)]


def _includes(own: dict[str, str], asked: Labels | None) -> bool:
    return not asked or all(own.get(name) == value for name, value in asked.items())
