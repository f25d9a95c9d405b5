"""Statistics of a dataset's features, by which policies scale what they see and do.

Quantiles of the whole dataset are those of all of its frames, not means of the episodes' quantiles.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np

QUANTILES: Final = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_LEVELS = 256
_PIXELS = 65_536  # of an image, at most, that count
_LARGE = 1024  # values of one frame, beyond which all of them have one statistic
_SAMPLED = 8192  # of an episode's, at most, that count then
_OF_DEPTH = 256  # values of one image of depth, at most, that count


def of_rows(rows: Any) -> dict[str, Any]:
    """Returns the statistics of an array of shape (frames, ...), each of the shape of one frame; `count` is (1,)."""
    values = np.asarray(rows, np.float64)
    found = {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "count": np.array([len(values)]),
    }
    return found | {
        name: np.quantile(values, share, axis=0, method="inverted_cdf") for name, share in QUANTILES.items()
    }


def counted(rows: Any) -> Any:
    """Returns what counts of an array of shape (frames, ...).

    All of it; of large frames, such as depth, evenly spread finite values, as an array of shape (values, 1, ...): what
    a policy scales by is then one number for all places, as it is for the pixels of an image.
    """
    if rows[0].size <= _LARGE:
        return rows
    places = max(_SAMPLED // len(rows), 1)
    frames = rows[:: -(-len(rows) // _SAMPLED)].reshape(-1, rows[0].size)
    offsets = np.linspace(0, rows[0].size - 1, places).astype(np.int64)
    return _finite(frames[:, offsets].ravel()).reshape(-1, *(1,) * (rows.ndim - 1))


def _finite(values: Any) -> Any:
    """Returns the finite ones of values; a zero where there are none, as statistics need one."""
    found = values[np.isfinite(values)]
    return found if found.size else np.zeros(1, values.dtype)


def sampled(depth: Any) -> Any:
    """Returns evenly spread finite values of one image of depth, of shape (values, 1, 1, 1): those of a channel."""
    values = depth.ravel()[np.linspace(0, depth.size - 1, min(depth.size, _OF_DEPTH)).astype(np.int64)]
    return _finite(values).reshape(-1, 1, 1, 1)


class Levels:
    """Counts how often each channel of images has each of its 256 levels; exact, and added up over episodes."""

    def __init__(self) -> None:
        self._images = 0
        self._counts = np.zeros((3, _LEVELS), np.int64)

    def add(self, pixels: Any) -> None:
        """Counts an image of shape (H, W, 3); of a large one, a grid of its pixels."""
        stride = max(1, int(np.ceil(np.sqrt(pixels.shape[0] * pixels.shape[1] / _PIXELS))))
        for channel in range(3):
            seen = pixels[::stride, ::stride, channel].reshape(-1)
            self._counts[channel] += np.bincount(seen, minlength=_LEVELS)
        self._images += 1

    def statistics(self) -> dict[str, Any]:
        """Returns the statistics of levels from 0 to 1, of shape (3, 1, 1); `count`, of (1,), is that of images."""
        return {"count": np.array([self._images])} | {
            name: np.array(column).reshape(3, 1, 1)
            for name, column in _columns(_of_levels(counts) for counts in self._counts).items()
        }

    @classmethod
    def sum_of(cls, several: Iterable[Levels]) -> Levels:
        """Returns the counts of several together."""
        total = cls()
        for one in several:
            total._images += one._images
            total._counts += one._counts
        return total


def _of_levels(counts: Any) -> dict[str, float]:
    levels = np.arange(_LEVELS) / (_LEVELS - 1)
    shares = counts / counts.sum()
    mean = float(shares @ levels)
    seen = np.flatnonzero(counts)
    reached = np.cumsum(shares)
    found = {
        "min": float(levels[seen[0]]),
        "max": float(levels[seen[-1]]),
        "mean": mean,
        "std": float(np.sqrt(shares @ (levels - mean) ** 2)),
    }
    return found | {
        name: float(levels[min(int(np.searchsorted(reached, share - 1e-12)), _LEVELS - 1)])
        for name, share in QUANTILES.items()
    }


def _columns(rows: Iterable[dict[str, float]]) -> dict[str, list[float]]:
    columns: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return columns
