"""From observations to the arrays of one call of a policy, and from its outputs to each robot's result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from inferential.errors import InvalidObservation
from inferential.policies.tensors import Array, TensorSpec, pick

Run = Callable[[dict[str, Array]], Mapping[str, Any]]
"""Runs arrays by input, all with the axis of the batch in front, and returns those by output."""


def run_rows(
    specs: Sequence[TensorSpec], observations: Sequence[Mapping[str, Any]], run: Run
) -> list[dict[str, Any] | InvalidObservation]:
    """Returns a result for each observation, or why it does not fit; those of one form run in one call.

    Args:
        specs: the policy's inputs.
        observations: of robots.
        run: runs a batch.

    Raises:
        ValueError: an output has not one row for each observation.
    """
    outcomes: list[Any] = [None] * len(observations)
    forms: dict[tuple[tuple[int, ...], ...], list[tuple[int, dict[str, Array]]]] = {}
    for number, observation in enumerate(observations):
        try:
            row = pick(specs, observation)
        except InvalidObservation as error:
            outcomes[number] = error
        else:
            # Sizes that may vary make no batch where they do.
            forms.setdefault(tuple(array.shape for array in row.values()), []).append((number, row))
    for rows in forms.values():
        stacked = {name: np.stack([row[name] for _, row in rows]) for name in rows[0][1]}
        results = split(run(stacked), len(rows))
        for (number, _), result in zip(rows, results, strict=True):
            outcomes[number] = result
    return outcomes


def split(outputs: Mapping[str, Array], count: int) -> list[dict[str, Any]]:
    """Returns each robot's part of a batch's outputs.

    Raises:
        ValueError: naming an output that has not `count` rows.
    """
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != count:
            raise ValueError(f"output {name!r}: expected {count} rows, one for each observation, got {array.shape}")
    return [{name: _plain(array[number]) for name, array in outputs.items()} for number in range(count)]


def _plain(value: Any) -> Any:
    """Returns a row as results hold it: texts as str."""
    if isinstance(value, str):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "OU" and value.size == 1:
        return str(value.reshape(())[()])
    return value
