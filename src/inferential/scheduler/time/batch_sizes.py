"""Batch sizes of a model to compare with each other, and what of them stays the same until its latencies change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

_LEAST_S = 1e-9  # that a call takes, so that it can be divided by
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """Batch sizes to compare, and how long calls of each take; the arrays are not to be changed.

    Attributes:
        rows: the sizes, ascending; not to be changed.
        seconds: of a call of each, the median; not to be changed.
        seconds_of, seconds_each: the same as arrays [sizes] and [sizes, 1].
        longest_s: of a call of the largest size.
        varies_s: by how much the high quantile of such a call is above it.
        efficient: the size with most rows per second.
        totals_at: where the sum over a size's rows stands in a table [sizes, rows], which was summed up along the rows
            and is read as one line.
    """

    rows: list[int]
    seconds: list[float]
    seconds_of: Array
    seconds_each: Array
    longest_s: float
    varies_s: float
    efficient: int
    totals_at: npt.NDArray[np.intp]


def batch_sizes(typical_s: Sequence[float], high_s: float, most: int) -> BatchSizes:
    """Returns sizes from 1 on, `most` of them at most.

    Args:
        typical_s: of a call of 1, 2, ... rows, the median.
        high_s: of a call of the most rows, the high quantile.
        most: how many sizes; of more, some in equal distances.
    """
    rows = _sizes(len(typical_s), most)
    seconds = [max(typical_s[size - 1], _LEAST_S) for size in rows]
    efficient = max(zip(rows, seconds, strict=True), key=lambda one: one[0] / one[1])[0]
    each = np.array(seconds)
    longest_s = seconds[-1]
    varies_s = max(high_s - longest_s, 0.0)
    return BatchSizes(rows, seconds, each, each[:, None], longest_s, varies_s, efficient, _totals_at(tuple(rows)))


@lru_cache(maxsize=64)
def _totals_at(rows: tuple[int, ...]) -> npt.NDArray[np.intp]:
    found: npt.NDArray[np.intp] = np.arange(len(rows)) * rows[-1] + np.array(rows) - 1
    return found


@lru_cache(maxsize=64)
def _sizes(limit: int, most: int) -> list[int]:
    if limit <= most:
        return list(range(1, limit + 1))
    sizes: list[int] = np.unique(np.linspace(1, limit, most).astype(int)).tolist()
    return sizes
