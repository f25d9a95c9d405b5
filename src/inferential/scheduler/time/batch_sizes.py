"""Batch sizes of a model to compare with each other, and what of them stays the same until its latencies change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_LEAST_S = 1e-9  # that a call takes, so that it can be divided by
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """Batch sizes to compare, and how long calls of each take; the arrays are shared and not to be changed.

    Attributes:
        rows: the sizes, ascending.
        seconds, latency_s: of a call of each, the median.
        longest_s: of a call of the largest size.
        varies_s: by how much the high quantile of such a call is above it.
        efficient: the size with most rows per second.
        columns, latency_of_each: of a flattened table [sizes, rows], which row it is, and how long a call of the size
            takes.
        totals: where the sum over a size's rows stands, in such a table that was summed up along the rows.
    """

    rows: list[int]
    seconds: list[float]
    latency_s: Array
    longest_s: float
    varies_s: float
    efficient: int
    columns: npt.NDArray[np.intp]
    latency_of_each: Array
    totals: npt.NDArray[np.intp]


def batch_sizes(typical_s: Sequence[float], high_s: float, most: int) -> BatchSizes:
    """Returns sizes from 1 on, `most` of them at most.

    Args:
        typical_s: of a call of 1, 2, ... rows, the median.
        high_s: of a call of the most rows, the high quantile.
        most: how many sizes; of more, some in equal distances.
    """
    limit = len(typical_s)
    sizes = np.arange(1, limit + 1)
    if limit > most:
        sizes = np.unique(np.linspace(1, limit, most).astype(int))
    latency_s = np.maximum(np.array(typical_s)[sizes - 1], _LEAST_S)
    return BatchSizes(
        sizes.tolist(),
        latency_s.tolist(),
        latency_s,
        float(latency_s[-1]),
        max(high_s - float(latency_s[-1]), 0.0),
        int(sizes[(sizes / latency_s).argmax()]),
        np.tile(np.arange(limit), len(sizes)),
        np.repeat(latency_s, limit),
        np.arange(len(sizes)) * limit + sizes - 1,
    )
