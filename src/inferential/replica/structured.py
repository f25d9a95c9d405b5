"""Results of models in other forms than arrays and strings by key: nested, None, lists of strings, stacked rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from inferential.proto.structure import STRUCTURE_KEY, flatten, narrow_float_as_float32

RESULT_FIELDS = ("response_id", "model_id", "inference_latency_ms")
"""Keys of what a client's result holds beside the model's values."""
AsArray = Callable[[str, Any], Any]
"""Returns a value of a result as an array, or raises a TypeError that names its key."""


def structured(result: Mapping[Any, Any], as_array: AsArray) -> dict[str, Any]:
    """Returns a result with maps, None or lists of strings as flat values, with their structure beside them.

    `actions` must be an array all the same.

    Raises:
        TypeError: naming the key of a value that cannot be sent.
    """
    refuse_shared_keys(result)
    checked = {str(key): _checked(str(key), value, as_array) for key, value in result.items()}
    if checked.get("actions", "") is None:
        as_array("actions", None)
    values, structure = flatten(checked, RESULT_FIELDS)
    values[STRUCTURE_KEY] = structure
    return values


def _checked(path: str, value: Any, as_array: AsArray) -> Any:
    if isinstance(value, Mapping):
        refuse_shared_keys(value, f"result {path!r}")
        return {str(key): _checked(f"{path}/{key}", inner, as_array) for key, inner in value.items()}
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and _holds_texts(value):
        return list(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "U":
            return value
        narrow = None if value.dtype.name == "bfloat16" else narrow_float_as_float32(value)
        return as_array(path, value if narrow is None else narrow)
    array = as_array(path, value)
    return value if isinstance(value, bool | int | float | np.generic) else array


def refuse_shared_keys(found: Mapping[Any, Any], where: str = "result") -> None:
    """Raises a TypeError that names two keys of a map which are the same text, such as 1 and "1": one would be lost."""
    known: dict[str, Any] = {}
    for key in found:
        other = known.setdefault(str(key), key)
        if other is not key:
            raise TypeError(f"{where}: the keys {other!r} and {key!r} are both sent as {str(key)!r}")


def _holds_texts(value: Any) -> bool:
    """Whether a value is strings, None and lists of them."""
    if isinstance(value, list | tuple):
        return all(map(_holds_texts, value))
    return value is None or isinstance(value, str)


def rows_of(results: Any, count: int) -> list[Any]:
    """Returns the result of each observation, of what `infer_batch` returned: results in order, or one map of stacked
    arrays, whose first axis is the observation.

    In maps within such a map, what has no row for each observation (a time in milliseconds) is given to all of them.

    Raises:
        TypeError: they are neither.
        ValueError: naming the key of an array that has not `count` rows.
    """
    if not isinstance(results, Mapping):
        if isinstance(results, str | bytes) or not hasattr(results, "__iter__"):
            kind = type(results).__name__
            raise TypeError(f"infer_batch: expected {count} results, one for each observation, got {kind}")
        return list(results)
    return [{key: _row(f"{key}", value, index, count) for key, value in results.items()} for index in range(count)]


def _row(path: str, value: Any, index: int, count: int, nested: bool = False) -> Any:
    if isinstance(value, Mapping):
        return {key: _row(f"{path}/{key}", inner, index, count, True) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        stacked, rows = True, len(value)
    else:
        shape = np.shape(value) if isinstance(value, np.ndarray) else getattr(value, "shape", ())
        stacked, rows = len(shape) > 0, int(shape[0]) if len(shape) else 0
    if not stacked or (nested and rows != count):
        return value
    if rows != count:
        raise ValueError(f"infer_batch: {path}: expected {count} rows, one for each observation, got {rows}")
    return value[index]
