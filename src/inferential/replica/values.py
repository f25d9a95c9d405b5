"""What a model's result means: arrays and strings by key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from inferential.replica.structured import refuse_shared_keys, structured

Observation = dict[str, Any]
"""What a model sees: np.ndarray by key (tensors) and str by key (metadata)."""

_NUMBERS = frozenset("biufc")  # kinds of dtypes, the plain ones
_YIELDS = "; the function has a yield: it must return its result"
_REMEDIES = {
    "NoneType": "; does the model return its result?",
    "generator": _YIELDS,
    "async_generator": _YIELDS,
    "coroutine": "; is an await missing?",
    "bytes": "; np.frombuffer(value, np.uint8) is an array",
}
_IMMUTABLE = (str, bytes, int, float, complex, np.generic, BaseException)


def as_values(result: Any) -> dict[str, Any]:
    """Returns a model's result as arrays and strings by key.

    A dict keeps its keys, a dataclass or a named tuple its fields; a bare string becomes `text`, and anything else
    `actions`. A dict with other values (maps, None, lists of strings) has its structure beside them.

    Raises:
        TypeError: naming the key of a value that is neither a string nor an array nor can become one.
    """
    # What most models return comes first: an abstract class is checked by a function of its own.
    if isinstance(result, np.ndarray):
        return {"actions": _as_array("actions", result)}
    if not isinstance(result, (dict, Mapping)):
        if isinstance(result, str):
            return {"text": result}
        if (result := _by_field(found := result)) is None:
            return {"actions": _as_array("actions", found)}
    try:
        values = {
            str(key): value if isinstance(value, str) else _as_array(str(key), value) for key, value in result.items()
        }
    except TypeError:
        return structured(result, _as_array)
    if len(values) != len(result):
        refuse_shared_keys(result)
    return values


def _by_field(result: Any) -> dict[str, Any] | None:
    """Returns the fields of a dataclass or a named tuple, which as an array would be one stacked on the other."""
    names = getattr(type(result), "_fields", None) if isinstance(result, tuple) else None
    if names is None and not hasattr(result, "__array__"):
        names = getattr(type(result), "__dataclass_fields__", None)
    return None if names is None else {name: getattr(result, name) for name in names}


def own(result: Any) -> Any:
    """Returns a result that the next call of its model does not change, should that write into the same array."""
    if result is None or isinstance(result, _IMMUTABLE):
        return result
    if isinstance(result, np.ndarray):
        return result.copy()
    if isinstance(result, dict):
        return {key: own(value) for key, value in result.items()}
    if type(result) in (list, tuple):
        return type(result)(map(own, result))
    if hasattr(result, "__array__"):  # a tensor of torch or jax
        try:
            return np.array(result)
        except BaseException:  # it fails again where it is sent, which says why
            return result
    return result


def _as_array(key: str, value: Any) -> np.ndarray[Any, Any]:
    if type(value) is np.ndarray and value.dtype.kind in _NUMBERS:
        return value
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise TypeError(f"result {key!r}: a mask cannot be sent; value.filled(...) makes an array of a masked one")
    try:
        array = np.asarray(value)
    except Exception as error:
        raise TypeError(f"result {key!r}: {type(value).__name__} is no array: {error}") from error
    if array.dtype.hasobject or (array.dtype.kind in "USV" and array.dtype.name != "bfloat16"):
        raise TypeError(f"result {key!r}: expected numbers or a string, got {_said_of(value)}")
    return array


def _said_of(value: Any) -> str:
    """Returns what a value is that cannot be sent, and what to do about it."""
    kind = type(value).__name__
    if isinstance(value, np.ndarray):
        return f"an array of {'objects' if value.dtype.hasobject else value.dtype}"
    if isinstance(value, int):
        return f"an {kind} beyond 64 bits"
    return f"{kind}{_REMEDIES.get(kind, '')}"
