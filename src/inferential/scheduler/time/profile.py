"""How long a model's call takes, by batch size: learned from every call, or loaded.

It measures nothing itself: its callers pass calls and their durations. Latencies are seconds; files have milliseconds.

A latency is described by its median and a high quantile, as execution times of one model on one device vary little
and the little counts (Clockwork, Gujarati et al., OSDI 2020; distributions rather than means: ORLOJ, Yu et al., 2022).
For each batch size the newest WINDOW calls are kept. Four rules keep what does not belong out of them:

    the first call of a size, 3 times longer      compiling, allocating: dropped when the second comes
    than the second
    a call beyond 3 times the high quantile, or   an outlier: kept aside
    below a third of the median
      the third such call in a row, same side     load or hardware has changed: the three are what is known now,
                                                  and other sizes, measured before the change, are forgotten
    a size not called during FORGET_AFTER calls   forgotten, as its figures may be of another time

What is not known is estimated: between two known sizes along a line, below the smallest as the smallest, and above the
largest, up to twice its size, as the largest (Nexus, Shen et al., SOSP 2019, profiles all sizes beforehand; here an
optimistic guess has each size tried once, and one call corrects it).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inferential.scheduler.time.batch_sizes import BatchSizes, batch_sizes

WINDOW = 64
FORGET_AFTER = 256
LONGEST_S = 1e6
"""Seconds beyond which a latency is a mistake."""
WARM_AFTER = 3
"""Calls after which a profile counts enough to refuse by it."""
DEFAULT_QUANTILE = 0.95
_ODD = 3.0
_ODD_IN_A_ROW = 3
_LOADED_CALLS = 20  # what a loaded figure weighs
_REMEMBERED_LIMITS = 64


@dataclass(frozen=True, slots=True)
class SizeProfile:
    """One batch size.

    Attributes:
        batch_size: rows in a call.
        calls: how many calls the figures are from.
        median_ms, high_ms: of their latency; `high_ms` is the high quantile.
    """

    batch_size: int
    calls: int
    median_ms: float
    high_ms: float


class LatencyProfile:
    """One model on one replica.

    Args:
        quantile: which one the high one is, 0.5 to 1.
    """

    def __init__(self, quantile: float = DEFAULT_QUANTILE) -> None:
        self.quantile: float = quantile
        self.calls: int = 0
        self._windows: dict[int, _Window] = {}
        self._explored = 1
        self._typical: list[float] = []  # by batch size - 1, computed when asked for
        self._high: list[float] = []
        self._sizes_up_to: dict[int, BatchSizes] = {}

    @property
    def known(self) -> bool:
        """Whether any call was measured."""
        return bool(self._windows)

    @property
    def warm(self) -> bool:
        """Whether enough calls were measured to turn a request away by them."""
        return self.calls >= WARM_AFTER

    def set_quantile(self, quantile: float) -> None:
        """Sets which quantile is the high one from now on."""
        self.quantile = quantile
        self._forget_curves()

    def note(self, batch_size: int, latency_s: float) -> None:
        """Learns from one call of `batch_size` requests, which took `latency_s` seconds, unless that is no duration."""
        if not 0 <= latency_s <= LONGEST_S:
            return
        self.calls = calls = self.calls + 1
        window = self._windows.get(batch_size)
        if window is None:
            window = self._windows[batch_size] = _Window()
            self._explored = 2 * max(self._windows)
        if window.add(latency_s, self.quantile):
            self._windows = {batch_size: window}
            self._explored = 2 * batch_size
        window.last_call = calls
        if calls % WINDOW == 0:
            self._forget()
        if self._typical:
            self._forget_curves()

    def typical(self, batch_size: int) -> float:
        """Returns the median latency in seconds; 0 while nothing is known."""
        if batch_size > len(self._typical):
            if batch_size == 1:  # what the curves begin with, which each call would have drawn anew
                return self._windows[min(self._windows)].median() if self._windows else 0.0
            self._draw(batch_size)
        return self._typical[batch_size - 1]

    def high(self, batch_size: int) -> float:
        """Returns the high quantile in seconds; 0 while nothing is known."""
        if batch_size > len(self._high):
            self._draw(batch_size)
        return self._high[batch_size - 1]

    def largest_within(self, seconds: float, limit: int, caution: float = 1.0) -> int:
        """Returns how many rows, `limit` at most, one call answers within `seconds`; 0: none.

        Args:
            seconds: how long it may take.
            limit: the most rows.
            caution: by which latency, from 0, the median, to 1, the high quantile.
        """
        limit = min(limit, self._explored)
        if limit > len(self._high):
            self._draw(limit)
        rows = bisect_right(self._high, seconds, 0, limit)
        if caution < 1:
            typical, high = self._typical, self._high
            while rows < limit and typical[rows] + caution * (high[rows] - typical[rows]) <= seconds:
                rows += 1
        return rows

    def explored(self) -> int:
        """Returns the largest batch worth trying: twice the largest known one; 1 while nothing is known."""
        return self._explored

    def sizes_up_to(self, limit: int, most: int) -> BatchSizes:
        """Returns sizes from 1 to `limit`, `most` of them at most; the same object until another call is known."""
        found = self._sizes_up_to.get(limit)
        if found is None:
            if len(self._sizes_up_to) >= _REMEMBERED_LIMITS:
                self._sizes_up_to.clear()
            self.typical(limit)
            found = self._sizes_up_to[limit] = batch_sizes(self._typical[:limit], self.high(limit), most)
        return found

    def rate(self, batch_size: int) -> float:
        """Returns rows per second in calls of that size one after another; infinite while nothing is known."""
        latency_s = self.typical(batch_size)
        return batch_size / latency_s if latency_s > 0 else math.inf

    def sizes(self) -> list[SizeProfile]:
        """Returns what was measured or loaded, by batch size."""
        return [
            SizeProfile(size, window.calls, window.median() * 1e3, window.high(self.quantile) * 1e3)
            for size, window in sorted(self._windows.items())
        ]

    def load(self, batch_size: int, median_s: float, high_s: float) -> None:
        """Takes figures from elsewhere as if they had been measured in 20 calls; not a median that is no duration."""
        if not 0 <= median_s <= LONGEST_S:
            return
        high_s = high_s if median_s <= high_s <= LONGEST_S else median_s
        window = self._windows[batch_size] = _Window()
        rare = max(1, round((1 - self.quantile) * _LOADED_CALLS))
        for latency_s in [median_s] * (_LOADED_CALLS - rare) + [high_s] * rare:
            window.keep(latency_s)
        self.calls += _LOADED_CALLS
        window.last_call = self.calls
        self._explored = 2 * max(self._windows)
        self._forget_curves()

    def _forget_curves(self) -> None:
        """Marks the curves as out of date; they are computed again when they are read."""
        self._typical, self._high = [], []
        self._sizes_up_to.clear()

    def _forget(self) -> None:
        oldest = self.calls - FORGET_AFTER
        self._windows = {size: window for size, window in self._windows.items() if window.last_call > oldest}
        self._explored = 2 * max(self._windows)

    def _draw(self, up_to: int) -> None:
        """Computes the two curves over batch sizes from 1; they never fall, as more rows do not take less time."""
        known = sorted(self._windows)
        medians = [self._windows[size].median() for size in known]
        highs = [self._windows[size].high(self.quantile) for size in known]
        up_to = max(up_to, self._explored, 8)  # all sizes worth trying: they are asked for one after another
        self._typical = _curve(up_to, known, medians)
        self._high = _curve(up_to, known, highs)


class _Window:
    """The newest calls of one batch size."""

    __slots__ = ("_newest", "_odd", "_sorted", "calls", "last_call")

    def __init__(self) -> None:
        self._newest: deque[float] = deque()
        self._sorted: list[float] = []
        self._odd: list[float] = []
        self.calls = 0
        self.last_call = 0

    def add(self, latency_s: float, quantile: float) -> bool:
        """Takes a call in by the table above; whether load or hardware turned out to have changed."""
        known = self._sorted
        count = len(known)
        if count == 1 and latency_s * _ODD < known[0]:
            self._clear()
        elif count:
            slow = latency_s > _ODD * known[min(int(quantile * count), count - 1)]
            if slow or latency_s * _ODD < known[(count - 1) // 2]:
                return self._set_aside(latency_s, slow)
        if self._odd:
            self._odd.clear()
        self.keep(latency_s)
        return False

    def _set_aside(self, latency_s: float, slow: bool) -> bool:
        if self._odd and (self._odd[-1] > self.median()) != slow:
            self._odd.clear()
        self._odd.append(latency_s)
        if len(self._odd) < _ODD_IN_A_ROW:
            return False
        odd, self._odd = self._odd, []
        self._clear()
        for latency_s in odd:
            self.keep(latency_s)
        return True

    def keep(self, latency_s: float) -> None:
        newest, known = self._newest, self._sorted
        newest.append(latency_s)
        insort(known, latency_s)
        self.calls += 1
        if len(known) > WINDOW:
            del known[bisect_left(known, newest.popleft())]

    def median(self) -> float:
        return self._sorted[(len(self._sorted) - 1) // 2]

    def high(self, quantile: float) -> float:
        return self._sorted[min(int(quantile * len(self._sorted)), len(self._sorted) - 1)]

    def _clear(self) -> None:
        self._newest.clear()
        self._sorted.clear()


class Profiles:
    """The profiles of all models and their replicas.

    Args:
        quantile: of every profile's high latency.
    """

    def __init__(self, quantile: float = DEFAULT_QUANTILE) -> None:
        self._quantile = quantile
        self._profiles: dict[tuple[str, str], LatencyProfile] = {}
        self._loaded: dict[str, list[SizeProfile]] = {}
        self._last: dict[str, list[SizeProfile]] = {}
        self.version: int = 0
        """Changes whenever profiles that `of` returned before are no longer in use."""

    def of(self, model_id: str, replica: str = "") -> LatencyProfile:
        """Returns the profile of a replica; a new one begins as loaded for its model, else as its siblings are."""
        profile = self._profiles.get((model_id, replica))
        if profile is None:
            begin = self._loaded.get(model_id) or self._sizes_of(model_id) or self._last.get(model_id, [])
            profile = self._profiles[model_id, replica] = LatencyProfile(self._quantile)
            for size in begin:
                profile.load(size.batch_size, size.median_ms / 1e3, size.high_ms / 1e3)
        return profile

    def _sizes_of(self, model_id: str) -> list[SizeProfile]:
        """Returns the profile of the model's replica with the most calls."""
        siblings = [self._profiles[model_id, replica] for replica in self.replicas(model_id)]
        return max(siblings, key=lambda profile: profile.calls).sizes() if siblings else []

    def set_quantile(self, quantile: float) -> None:
        """Sets which quantile is the high one from now on; what was learned stays."""
        self._quantile = quantile
        for profile in self._profiles.values():
            profile.set_quantile(quantile)

    def models(self) -> list[str]:
        """Returns the models with a profile, sorted."""
        return sorted({model_id for model_id, _ in self._profiles} | self._loaded.keys())

    def replicas(self, model_id: str) -> list[str]:
        """Returns the replicas of a model with a profile, sorted."""
        return sorted(replica for known, replica in self._profiles if known == model_id)

    def forget(self, model_id: str, replica: str) -> None:
        """Forgets a replica that is gone; the figures of a model's last one are kept for its successor."""
        self.version += 1
        self._last[model_id] = self._sizes_of(model_id) or self._last.get(model_id, [])
        self._profiles.pop((model_id, replica), None)

    def load(self, figures: Mapping[str, Any]) -> None:
        """Takes what `as_dict` returned, in this run or another.

        Raises:
            ValueError: naming the entry that is wrong; none is taken then.
        """
        loaded = {}
        for model_id, sizes in figures.items():
            if not isinstance(sizes, list) or not sizes:
                raise ValueError(f"{model_id}: expected a list of batch sizes, got {sizes!r}")
            loaded[model_id] = [_size(f"{model_id}[{at}]", size) for at, size in enumerate(sizes)]
        self._loaded |= loaded
        for model_id, replica in [key for key in self._profiles if key[0] in figures]:
            del self._profiles[model_id, replica]
        self.version += 1

    def as_dict(self) -> dict[str, list[dict[str, float]]]:
        """Returns, by model id, a list of {batch_size, median_ms, high_ms} of the replica with the most calls."""
        found = {}
        for model_id in self.models():
            sizes = self._sizes_of(model_id) or self._loaded.get(model_id)
            if sizes:
                found[model_id] = [
                    {"batch_size": size.batch_size, "median_ms": size.median_ms, "high_ms": size.high_ms}
                    for size in sizes
                ]
        return found


def _size(where: str, entry: Any) -> SizeProfile:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: expected batch_size, median_ms and high_ms, got {entry!r}")
    unknown = entry.keys() - {"batch_size", "median_ms", "high_ms"}
    if unknown:
        raise ValueError(f"{where}: unknown key {min(unknown)!r}; known: batch_size, median_ms, high_ms")
    batch_size, median_ms = entry.get("batch_size"), entry.get("median_ms")
    high_ms = entry.get("high_ms", median_ms)
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"{where}: batch_size: expected a whole number above 0, got {batch_size!r}")
    for name, value in (("median_ms", median_ms), ("high_ms", high_ms)):
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{where}: {name}: expected milliseconds above 0, got {value!r}")
    assert median_ms is not None
    assert high_ms is not None
    if high_ms < median_ms:
        raise ValueError(f"{where}: high_ms: expected at least median_ms ({median_ms}), got {high_ms}")
    return SizeProfile(batch_size, 0, float(median_ms), float(high_ms))


def _curve(up_to: int, known: list[int], values: list[float]) -> list[float]:
    """Values at 1 to `up_to`: on lines between those that are known, level beyond the outermost, never falling."""
    curve: list[float] = []
    size, value = 0, values[0] if values else 0.0
    for following, target in zip(known, values, strict=True):
        target = max(target, value)
        slope = (target - value) / (following - size)
        curve.extend([value + slope * step for step in range(1, following - size)])
        curve.append(target)
        size, value = following, target
    curve.extend([value] * (up_to - size))
    return curve
