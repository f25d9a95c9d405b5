"""From observations to the arrays of one call of a policy, and from its outputs to each robot's result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
        run: runs a batch; raises InvalidObservation where its form does not fit.

    Raises:
        ValueError: an output has not one row for each observation.
    """
    outcomes, batches = stack(specs, observations)
    for batch in batches:
        try:
            batch.put(run(batch.arrays), outcomes)
        except InvalidObservation as error:
            for number in batch.numbers:
                outcomes[number] = error
    return outcomes


def run_stacked(arrays: dict[str, Array], run: Run) -> Mapping[str, Any]:
    """Returns the outputs of observations whose inputs are arrays already, with the axis of the batch in front.

    Raises:
        ValueError: an output has not one row for each observation.
    """
    count = len(next(iter(arrays.values())))
    outputs = run(arrays)
    check_rows(outputs, count)
    return outputs


def run_row(specs: Sequence[TensorSpec], observation: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Returns the result of one observation, which runs alone.

    Raises:
        InvalidObservation: it does not fit the inputs.
        ValueError: an output has not one row.
    """
    return result_of(run_rows(specs, [observation], run)[0])


def result_of(outcome: dict[str, Any] | Exception) -> dict[str, Any]:
    """Returns the outcome of an observation where it is a result; raises it where it is an error."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@dataclass(frozen=True, slots=True)
class Batch:
    """Observations of one form.

    Attributes:
        numbers: which of the observations they are.
        arrays: their inputs, with the axis of the batch in front.
    """

    numbers: Sequence[int]
    arrays: dict[str, Array]

    def put(self, outputs: Mapping[str, Any], outcomes: list[Any]) -> None:
        """Puts each observation's part of the outputs in its place.

        Raises:
            ValueError: an output has not one row for each observation.
        """
        for number, result in zip(self.numbers, split(outputs, len(self.numbers)), strict=True):
            outcomes[number] = result


def stack(
    specs: Sequence[TensorSpec], observations: Sequence[Mapping[str, Any]], largest: int | None = None
) -> tuple[list[Any], list[Batch]]:
    """Returns a place for each outcome, with the errors of those that do not fit, and the batches of the others.

    Args:
        specs: the policy's inputs.
        observations: of robots.
        largest: rows of a batch at most; None: any number.
    """
    outcomes: list[Any] = [None] * len(observations)
    forms: dict[tuple[tuple[str, tuple[int, ...]], ...], list[tuple[int, dict[str, Array]]]] = {}
    for number, observation in enumerate(observations):
        try:
            row = pick(specs, observation)
        except InvalidObservation as error:
            outcomes[number] = error
        else:
            # Sizes that may vary make no batch where they do.
            forms.setdefault(tuple((name, array.shape) for name, array in row.items()), []).append((number, row))
    step = largest or max(len(observations), 1)
    return outcomes, [_batch(rows[at : at + step]) for rows in forms.values() for at in range(0, len(rows), step)]


def _batch(rows: Sequence[tuple[int, dict[str, Array]]]) -> Batch:
    arrays = {name: np.stack([row[name] for _, row in rows]) for name in rows[0][1]}
    return Batch([number for number, _ in rows], arrays)


def split(outputs: Mapping[str, Array], count: int) -> list[dict[str, Any]]:
    """Returns each robot's part of a batch's outputs.

    Raises:
        ValueError: naming an output that has not `count` rows.
    """
    check_rows(outputs, count)
    return [{name: _plain(array[number]) for name, array in outputs.items()} for number in range(count)]


def check_rows(outputs: Mapping[str, Array], count: int) -> None:
    """Checks that a batch's outputs have a row for each observation.

    Raises:
        ValueError: naming an output that has not `count` rows.
    """
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != count:
            raise ValueError(f"output {name!r}: expected {count} rows, one for each observation, got {array.shape}")


def _plain(value: Any) -> Any:
    """Returns a row as results hold it: texts as str."""
    if isinstance(value, str):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "OU" and value.size == 1:
        return str(value.reshape(())[()])
    return value
