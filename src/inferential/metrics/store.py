"""The newest points of one metric, and statistics over them.

Points are stored in three flat arrays that form a ring buffer (time, value, label set): 20 bytes a point, and
statistics are computed by numpy. Not thread-safe; the collector holds a lock.
"""

from __future__ import annotations

import time
from array import array
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, cast

import numpy as np
import numpy.typing as npt

Labels = Mapping[str, str]
LabelSet = tuple[tuple[str, str], ...]
_CLIENT = "client"
_NONE: frozenset[int] = frozenset()


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


@dataclass(frozen=True, slots=True)
class Rows:
    """Times and label sets of points; the series of all metrics of a group share them."""

    times: array[float]
    label_sets: list[LabelSet]
    """Distinct label sets, the one recorded last at the end."""
    indexes: list[int]
    """For each point, the index of its label set."""

    @classmethod
    def of(cls, times: Sequence[float], keys: Sequence[LabelSet]) -> Self:
        """Returns rows in the order of their times, with the labels of each."""
        label_sets = list(dict.fromkeys(reversed(keys)))
        label_sets.reverse()
        offsets = {key: offset for offset, key in enumerate(label_sets)}
        return cls(array("d", times), label_sets, list(map(offsets.__getitem__, keys)))

    @classmethod
    def of_runs(cls, times: Sequence[float], keys: Sequence[LabelSet], counts: Sequence[int]) -> Self:
        """Returns the rows of which each of these comes so many times."""
        rows = cls.of(times, keys)
        indexes = [index for index, count in zip(rows.indexes, counts, strict=True) for _ in range(count)]
        return cls(repeated(times, counts), rows.label_sets, indexes)

    def halves(self) -> tuple[Self, Self]:
        """Returns the older and the newer half."""
        half = len(self.indexes) // 2
        keys = [self.label_sets[index] for index in self.indexes]
        return self.of(self.times[:half], keys[:half]), self.of(self.times[half:], keys[half:])


def repeated(values: Sequence[float], counts: Sequence[int]) -> array[float]:
    """Returns an array of which each value comes so many times."""
    found = array("d")
    for value, count in zip(values, counts, strict=True):
        found += array("d", (value,)) * count
    return found


class MetricSeries:
    """The newest `max_size` points of a metric, of at most `max_label_sets` combinations of labels.

    When there are too many, the eighth of them that were recorded longest ago lose labels, and at most an eighth more
    combinations hold their points. No point is lost: what was measured counts in every window that it belongs to.
    """

    __slots__ = (
        "_at",
        "_folded",
        "_free",
        "_having",
        "_indexes",
        "_label_sets",
        "_latest",
        "_max_label_sets",
        "_max_size",
        "_sets",
        "_times",
        "_values",
    )

    def __init__(self, max_size: int = 10000, max_label_sets: int = 4096) -> None:
        self._max_size = max_size
        self._max_label_sets = max_label_sets
        self._times = array("d")
        self._values = array("d")
        self._sets = array("i")
        self._at = 0  # index of the oldest point, once the ring is full
        self._clear_label_sets()

    def _clear_label_sets(self) -> None:
        self._indexes: OrderedDict[LabelSet, int] = OrderedDict()  # least recently used first
        # By index. An index is reused only after `_fold` has given its points another, so that no point ever appears
        # under labels that are not its own.
        self._label_sets: list[LabelSet] = []
        self._latest: dict[int, float] = {}
        self._free: list[int] = []
        self._folded: dict[LabelSet, int] = {}  # what is left of label sets that lost labels; not among `_indexes`
        self._having: dict[tuple[str, str], set[int]] = {}  # indexes of the label sets that have this label

    def __len__(self) -> int:
        return len(self._times)

    @property
    def label_set_count(self) -> int:
        """Number of distinct label sets."""
        return len(self._indexes) + len(self._folded)

    def sizes(self) -> dict[str, int]:
        """Returns the number of entries in each table; all are bounded, however many label sets there ever were."""
        return {
            "points": len(self._times),
            "label_sets": self.label_set_count,
            "label_set_indexes": len(self._label_sets),
            "labels": len(self._having),
        }

    def __iter__(self) -> Iterator[MetricPoint]:
        """Yields the points stored now, oldest first."""
        times, values, sets = (part.tolist() for part in self._oldest_first())
        label_sets = list(self._label_sets)
        return (
            MetricPoint(timestamp, value, dict(label_sets[index]))
            for timestamp, value, index in zip(times, values, sets, strict=True)
        )

    def record(self, value: float, labels: Labels | None = None) -> None:
        """Adds a point, now. Takes about a microsecond; `labels` may be changed afterwards.

        Raises:
            TypeError, ValueError: `value` is not a number; nothing is recorded then.
        """
        value = float(value)
        key = tuple(labels.items()) if labels else ()
        index = self._indexes.get(key)
        if index is None:
            index = self._index_of(key)
        else:
            self._indexes.move_to_end(key)
        self._latest[index] = value
        if len(self._times) < self._max_size:
            self._times.append(time.monotonic())
            self._values.append(value)
            self._sets.append(index)
            return
        at = self._at
        self._times[at] = time.monotonic()
        self._values[at] = value
        self._sets[at] = index
        self._at = at + 1 if at + 1 < self._max_size else 0

    def extend(self, rows: Rows, values: Sequence[float]) -> None:
        """Adds points in order; costs a fraction of `record` for each.

        Raises:
            TypeError: a value is not a number; which points were added is undefined then.
        """
        if len(rows.label_sets) > max(self._max_label_sets // 2, 1):
            # So many new label sets that one of them could push out another: one half at a time.
            older, newer = rows.halves()
            self.extend(older, values[: len(older.indexes)])
            self.extend(newer, values[len(older.indexes) :])
            return
        series_indexes = self._indexes_of(rows.label_sets)
        indexes, column = array("i", map(series_indexes.__getitem__, rows.indexes)), array("d", values)
        self._latest.update(zip(indexes, column, strict=True))
        self._append(rows.times, column, indexes)

    def _indexes_of(self, label_sets: Sequence[LabelSet]) -> list[int]:
        """Returns the index of each label set, which are the last to be evicted now; new ones get theirs."""
        known = self._indexes
        found = list(map(known.get, label_sets))
        if None not in found:  # mostly: by two calls of C for each
            deque(map(known.move_to_end, label_sets), maxlen=0)
            return cast("list[int]", found)
        for key in filter(known.__contains__, label_sets):
            known.move_to_end(key)  # so that a new label set of these rows does not evict it
        indexes = []
        for key in label_sets:
            index = known.get(key)
            if index is None:
                index = self._index_of(key)
            else:
                known.move_to_end(key)
            indexes.append(index)
        return indexes

    def _append(self, times: array[float], values: array[float], sets: array[int]) -> None:
        done, count = 0, len(times)
        while done < count:
            room = self._max_size - len(self._times)
            if room > 0:
                part = slice(done, done + room)
                self._times += times[part]
                self._values += values[part]
                self._sets += sets[part]
                done += room
                continue
            step = min(count - done, self._max_size - self._at)
            part, place = slice(done, done + step), slice(self._at, self._at + step)
            self._times[place], self._values[place], self._sets[place] = times[part], values[part], sets[part]
            self._at = (self._at + step) % self._max_size
            done += step

    def get_latest(self, labels: Labels | None = None) -> float | None:
        """Returns the newest value whose labels include these, even if its point has been overwritten; None if none."""
        if not labels:
            newest = next(reversed((self._indexes or self._folded).values()), None)
            return None if newest is None else self._latest[newest]
        matching = self._matching(labels)
        if len(matching) == 1:
            return self._latest[next(iter(matching))]
        if not matching:
            return None
        order = (*reversed(self._indexes.values()), *reversed(self._folded.values()))
        return next(self._latest[index] for index in order if index in matching)

    def get_stats(self, labels: Labels | None = None, window_seconds: float = 300) -> MetricStats | None:
        """Returns statistics of the points of the last `window_seconds` whose labels include these; None if none."""
        return stats_of(self.window(labels, window_seconds))

    def window(self, labels: Labels | None, window_seconds: float) -> npt.NDArray[np.float64]:
        """Returns the values of the last `window_seconds` whose labels include these, in no order; a copy."""
        # Copies: an array whose buffer numpy exports cannot grow.
        times, values, sets = np.array(self._times), np.array(self._values), np.array(self._sets)
        chosen = times >= time.monotonic() - window_seconds
        if labels:
            chosen &= self._mask(self._matching(labels))[sets]
        return values[chosen]

    def forget(self, *labels: Labels) -> None:
        """Drops labels: of each label set that includes all of one of these, those; the points stay, without them."""
        gone: dict[int, set[tuple[str, str]]] = {}
        for each in filter(None, labels):
            for index in self._matching(each):
                gone.setdefault(index, set()).update(each.items())
        order = [index for index in (*self._folded.values(), *self._indexes.values()) if index in gone]
        self._fold((index, self._without(index, gone[index])) for index in order)

    def resize(self, max_size: int, max_label_sets: int) -> None:
        """Changes the limits; the newest points stay."""
        self._max_size, self._max_label_sets = max_size, max_label_sets
        self._fill(*(part[-max_size:] for part in self._oldest_first()))
        self._evict(max(len(self._indexes) - max_label_sets, 0))

    def _index_of(self, key: LabelSet) -> int:
        # The same labels in another order are the same label set.
        known = tuple(sorted(key))
        if known == key:
            known = key  # the same object is found sooner
        index = self._indexes.get(known)
        if index is not None:
            self._indexes.move_to_end(known)
            return index
        if len(self._indexes) >= self._max_label_sets:
            self._evict(max(self._max_label_sets // 8, 1))  # many at once: it scans every point
        if self._free:
            index = self._free.pop()
            self._label_sets[index] = known
        else:
            index = len(self._label_sets)
            self._label_sets.append(known)
        self._indexes[known] = index
        for label in known:
            self._having.setdefault(label, set()).add(index)
        return index

    def _matching(self, labels: Labels) -> set[int] | frozenset[int]:
        if not labels:
            return {*self._indexes.values(), *self._folded.values()}
        having = [self._having.get(label, _NONE) for label in labels.items()]
        return having[0] if len(having) == 1 else having[0].intersection(*having[1:])

    def _evict(self, count: int) -> None:
        """Drops labels of the label sets that were recorded longest ago: the client's first, as it has most values."""
        self._fold((index, self._without_client(index)) for index in list(self._indexes.values())[:count])

    def _without(self, index: int, labels: set[tuple[str, str]]) -> LabelSet:
        return tuple(label for label in self._label_sets[index] if label not in labels)

    def _without_client(self, index: int) -> LabelSet:
        known = self._label_sets[index]
        rest = tuple(label for label in known if label[0] != _CLIENT)
        return rest if len(rest) < len(known) else ()

    def _fold(self, pairs: Iterable[tuple[int, LabelSet]]) -> None:
        """Gives the points of label sets, the longest unused first, fewer labels; what is measured stays."""
        pairs = list(pairs)
        if not pairs:
            return
        targets = []
        for index, fewer in pairs:
            known = self._label_sets[index]
            (self._indexes if self._indexes.get(known) == index else self._folded).pop(known)
            for label in known:
                having = self._having[label]
                having.discard(index)
                if not having:
                    del self._having[label]
            target = self._folded_index(fewer)
            self._latest[target] = self._latest.pop(index)
            targets.append(target)
        gone = [index for index, _ in pairs]
        mapping = np.arange(len(self._label_sets), dtype=np.intc)
        mapping[gone] = targets
        self._sets = array("i", mapping[np.array(self._sets)].tobytes())
        for index in gone:
            self._label_sets[index] = ()
        self._free += gone

    def _folded_index(self, key: LabelSet) -> int:
        if key not in self._folded and len(self._folded) >= max(self._max_label_sets // 8, 1):
            key = ()
        index = self._folded.get(key)
        if index is None:
            # Not a free one: those of this call are freed once no point refers to them.
            index = self._folded[key] = len(self._label_sets)
            self._label_sets.append(key)
            for label in key:
                self._having.setdefault(label, set()).add(index)
        return index

    def _mask(self, indexes: Iterable[int]) -> npt.NDArray[np.bool_]:
        mask = np.zeros(len(self._label_sets), dtype=np.bool_)
        mask[np.fromiter(indexes, dtype=np.intp)] = True
        return mask

    def _oldest_first(self) -> list[npt.NDArray[np.generic]]:
        return [np.roll(np.array(part), -self._at) for part in (self._times, self._values, self._sets)]

    def _fill(self, *parts: npt.NDArray[np.generic]) -> None:
        """Resets the ring to these times, values and label sets; to empty if none are given."""
        times, values, sets = (part.tobytes() for part in parts) if parts else (b"", b"", b"")
        self._times, self._values, self._sets = array("d", times), array("d", values), array("i", sets)
        self._at = 0


def stats_of(values: npt.NDArray[np.float64]) -> MetricStats | None:
    """Returns statistics of values; None if there are none."""
    if not values.size:
        return None
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return MetricStats(
        avg=float(values.mean()),
        p50=float(p50),
        p95=float(p95),
        p99=float(p99),
        count=int(values.size),
        min=float(values.min()),
        max=float(values.max()),
    )
