"""Plain JSON: lists of numbers in place of arrays, for clients that have no other form of them.

    request   {"state": [1, 2, 3], "camera": {"depth": [[...], ...]}, "instruction": "pick", "lives": 3}
    answer    [0.5, 1.0, 1.5], or a map of such lists, texts and numbers

No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from inferential.policies.tensors import TEXT, TensorSpec, pick
from inferential.proto.decimal import decimal_list
from inferential.proto.structure import narrow_float_as_float32


def with_arrays(observation: Mapping[str, Any], inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Returns an observation with arrays in place of its lists of numbers.

    An input that the model declares gets the declared dtype. Of others, numbers become float32 whether they are whole
    or not (JSON has one kind, and many programs write 1.0 as 1), and truth values stay such. Lists that are no array
    (of texts, of maps, of unequal lengths) and single numbers are left as they are.

    Args:
        observation: of JSON, by key.
        inputs: what the model declares; empty where it takes anything.

    Raises:
        InvalidObservation: naming an input that is missing or does not fit, what came and what was expected.
        ValueError: naming a key whose numbers no float32 can hold, or maps are nested too deeply.
    """
    try:
        values = {key: _with_arrays(key, value) for key, value in observation.items()}
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    for spec in inputs:
        fitted = pick([spec], observation)
        if spec.dtype != TEXT:
            values.update(fitted)
    return values


def without_arrays(path: str, value: Any) -> Any:
    """Returns a value of a model with lists in place of its arrays.

    Args:
        path: its key, for errors.
        value: arrays, numbers, texts, None, and maps and lists of them.

    Raises:
        TypeError, ValueError: naming the key of a value that JSON has no form for.
    """
    if isinstance(value, Mapping):
        return {key: without_arrays(f"{path}/{key}" if path else key, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_arrays(path, inner) for inner in value]
    if not isinstance(value, float | np.ndarray | np.generic):
        return value
    array = np.asarray(value)
    narrow = narrow_float_as_float32(array)
    array = array if narrow is None else narrow
    if array.dtype.kind not in "biufU":
        raise TypeError(f"{path}: an answer cannot hold an array of {array.dtype} in JSON")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{path}: NaN and infinite numbers have no form in JSON")
    return decimal_list(array)


def _with_arrays(path: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_arrays(f"{path}/{key}", inner) for key, inner in value.items()}
    if not isinstance(value, list):
        return value
    try:
        array = np.asarray(value)
    except ValueError:  # of unequal lengths
        return value
    if array.dtype.kind not in "iuf":
        return array if array.dtype.kind == "b" else value
    try:
        with np.errstate(over="raise"):
            return array.astype(np.float32)
    except FloatingPointError:
        largest = np.abs(array[np.isfinite(array)]).max()
        raise ValueError(f"{path}: expected numbers that fit float32, got {largest:g}") from None
