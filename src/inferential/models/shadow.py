"""How far the answers of a version in the shadow are from those that robots got. No I/O and no clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from inferential.models.guard import Counts

ACTIONS_KEY = "actions"


class Comparison:
    """Differences of actions by dimension, errors and latency, side by side.

    Attributes:
        compared: answers that were compared.
        active, shadow: what became of the same observations in each version.
        last_problem: why the latest two answers could not be compared; "" where they could.
    """

    def __init__(self) -> None:
        self.compared: int = 0
        self.active: Counts = Counts()
        self.shadow: Counts = Counts()
        self.last_problem: str = ""
        self._sums: Any = None
        self._max: Any = None
        self._steps = 0

    def add(self, active: Mapping[str, Any], shadow: Mapping[str, Any]) -> Any:
        """Compares two answers to one observation; returns the mean difference by dimension, None where it cannot.

        Args:
            active, shadow: the values of each; of `actions`, else of the first array of floats, the last axis has the
                dimensions.
        """
        key = _key_of(active)
        mine, other = active.get(key), shadow.get(key)
        if not isinstance(mine, np.ndarray) or not isinstance(other, np.ndarray) or mine.shape != other.shape:
            self.last_problem = f"{key!r}: {_described(mine)} and {_described(other)}"
            return None
        with np.errstate(invalid="ignore"):  # of infinite ones
            apart = np.abs(np.asarray(mine, np.float64) - np.asarray(other, np.float64))
        if not np.isfinite(apart).all():  # one NaN would hide what all other answers differ by
            self.last_problem = f"{key!r}: a number is not finite"
            return None
        apart = apart.reshape(-1, apart.shape[-1] if apart.ndim else 1)
        if not apart.size:
            return None
        if self._sums is None or self._sums.shape != apart.shape[1:]:
            self._sums, self._max = np.zeros(apart.shape[1]), np.zeros(apart.shape[1])
            self._steps = self.compared = 0
        self._sums += apart.sum(axis=0)
        self._max = np.maximum(self._max, apart.max(axis=0))
        self._steps += len(apart)
        self.compared += 1
        self.last_problem = ""
        return apart.mean(axis=0)

    def mean(self) -> list[float]:
        """Returns the mean difference of each dimension."""
        return [] if self._sums is None else [float(one) for one in self._sums / self._steps]

    def max(self) -> list[float]:
        """Returns the largest difference of each dimension."""
        return [] if self._max is None else [float(one) for one in self._max]


def _key_of(values: Mapping[str, Any]) -> str:
    if ACTIONS_KEY in values:
        return ACTIONS_KEY
    for key, value in values.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            return key
    return ACTIONS_KEY


def _described(value: Any) -> str:
    return f"shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
