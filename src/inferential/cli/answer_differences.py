"""Answers beside those that were recorded: how far apart they are, dimension by dimension."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from inferential.proto.structure import flatten


class Row(NamedTuple):
    """One dimension of an array.

    Attributes:
        model: that was asked.
        key: of the array in its answers.
        dimension: along the array's last axis.
        mean, largest: of the absolute differences.
    """

    model: str
    key: str
    dimension: int
    mean: float
    largest: float


class Difference(NamedTuple):
    """Of one answer's array.

    Attributes:
        client_id: whose answer it is.
        at_s: seconds since the first observation.
        largest: by dimension, the largest absolute difference there; infinite where one alone is NaN or infinite.
    """

    client_id: str
    at_s: float
    largest: Any


@dataclass(slots=True)
class Compared:
    """Answers beside those that were recorded.

    Attributes:
        began_ns: when the first observation came, as recorded.
        compared: observations whose answers have the same arrays.
        unlike: those whose answers have not, by what is unlike.
        failed: those without an answer, by the error.
        differences: by model and array.
    """

    began_ns: int
    compared: int = 0
    unlike: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    differences: dict[tuple[str, str], list[Difference]] = field(default_factory=dict)

    def add(self, recorded: Any, after: dict[str, Any]) -> None:
        """Compares an answer with that of a recorded request."""
        arrays = {key: value for key, value in recorded.answer.items() if isinstance(value, np.ndarray)}
        after, _ = flatten(after)  # as answers are recorded
        for key, value in arrays.items():
            new = after.get(key)
            if new is None or np.shape(new) != value.shape:
                _count(self.unlike, f"{key}: {'nothing' if new is None else np.shape(new)} in place of {value.shape}")
                return
        self.compared += 1
        at_s = (recorded.received_ns - self.began_ns) / 1e9
        for key, value in arrays.items():
            apart = _apart(np.asarray(after[key]), value)
            columns = apart.reshape(-1, apart.shape[-1]) if apart.ndim else apart.reshape(1, 1)
            largest = columns.max(axis=0) if columns.size else columns.ravel()
            found = self.differences.setdefault((recorded.model_id, key), [])
            found.append(Difference(recorded.client_id, at_s, largest))

    def fail(self, what: str) -> None:
        """Counts an observation without an answer."""
        _count(self.failed, what)

    def rows(self) -> Iterator[Row]:
        """Yields the dimensions of each array."""
        for (model, key), found in self.differences.items():
            for dimension in range(max(len(one.largest) for one in found)):
                values = [one.largest[dimension] for one in found if dimension < len(one.largest)]
                yield Row(model, key, dimension, float(np.mean(values)), float(np.max(values)))

    @property
    def worst(self) -> float:
        """The largest difference of all; 0 where nothing was compared."""
        return max((row.largest for row in self.rows()), default=0.0)

    def as_dict(self) -> dict[str, Any]:
        """Returns the figures as plain values, ready for JSON, which has no infinity: None stands for it."""
        rows = [
            {
                "model": row.model,
                "key": row.key,
                "dimension": row.dimension,
                "mean": _finite(row.mean),
                "max": _finite(row.largest),
            }
            for row in self.rows()
        ]
        return {
            "compared": self.compared,
            "unlike": self.unlike,
            "failed": self.failed,
            "max_difference": _finite(self.worst),
            "differences": rows,
        }


def _count(counts: dict[str, int], what: str) -> None:
    counts[what] = counts.get(what, 0) + 1


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _apart(new: Any, old: Any) -> Any:
    """Returns the absolute differences of arrays of one shape; of other than numbers, infinite where they differ."""
    try:
        new, old = new.astype(np.float64), old.astype(np.float64)
    except (TypeError, ValueError):
        return np.where(new == old, 0.0, np.inf)
    with np.errstate(invalid="ignore"):
        found = np.abs(new - old)
    same = (new == old) | (np.isnan(new) & np.isnan(old))
    return np.where(same, 0.0, np.where(np.isnan(found), np.inf, found))
