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
    """Batch sizes to compare, and how long calls of each take.

    Attributes:
        rows: the sizes, ascending; not to be changed.
        seconds: of a call of each, the median.
        longest_s: of a call of the largest size.
        varies_s: by how much the high quantile of such a call is above it.
        efficient: the size with most rows per second.
    """

    rows: list[int]
    seconds: list[float]
    longest_s: float
    varies_s: float
    efficient: int

    def table(self) -> SizesTable:
        """Returns the same as arrays, for arithmetic on all sizes at once."""
        return _table(tuple(self.rows))

    def latency_s(self) -> Array:
        """Returns how long a call of each size takes."""
        return np.array(self.seconds)


@dataclass(frozen=True, slots=True)
class SizesTable:
    """Where what is in a flattened table [sizes, rows], whatever calls take; the arrays are shared, not to be changed.

    Attributes:
        columns: which row each entry is.
        sizes: of which size's line it is, counted from 0.
        totals: where the sum over a size's rows stands, in such a table that was summed up along the rows.
    """

    columns: npt.NDArray[np.intp]
    sizes: npt.NDArray[np.intp]
    totals: npt.NDArray[np.intp]


@lru_cache(maxsize=64)
def _table(rows: tuple[int, ...]) -> SizesTable:
    limit, count = rows[-1], len(rows)
    return SizesTable(
        np.tile(np.arange(limit), count),
        np.repeat(np.arange(count), limit),
        np.arange(count) * limit + np.array(rows) - 1,
    )


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
    return BatchSizes(rows, seconds, seconds[-1], max(high_s - seconds[-1], 0.0), efficient)


@lru_cache(maxsize=64)
def _sizes(limit: int, most: int) -> list[int]:
    if limit <= most:
        return list(range(1, limit + 1))
    sizes: list[int] = np.unique(np.linspace(1, limit, most).astype(int)).tolist()
    return sizes
