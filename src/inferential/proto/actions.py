"""What a model's result holds of actions, and whether a robot may play them. No I/O, no clock.

A chunk is T actions: an array [T, ...] or [1, T, ...] of a result, or several of them under keys of their own
(`action.left_arm`, `action.right_arm`), as many actions in each, which are played together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from inferential.errors import InferentialError

Array = npt.NDArray[Any]
Bound = float | Sequence[float] | Array

CHUNK_KEYS = ("actions", "action")
"""Where the chunk of a result is, the first that there is."""
PART_PREFIXES = ("action.", "actions.", "action/", "actions/")
"""What the keys begin with where a chunk is spread over several; with a slash they are those of a map in a map."""
_TOLERANCE = 1e-6  # relative: bounds are float64, actions mostly float32, and less exact ones have their own resolution
_SPEC_FIELDS = frozenset({"shape", "low", "high", "max_change"})


class BadActions(InferentialError, TypeError):
    """The actions of a result cannot be played; the text says which key, what came and what was expected."""


@dataclass(frozen=True, eq=False)
class ActionSpec:
    """What an action must be.

    Args:
        shape: of one action, such as (7,); None: any.
        low, high: the least and the greatest value, a number or one for each; None: any.
        max_change: how much a value may differ from that of the step before, a number or one for each; None: any.

    Raises:
        ValueError: naming the argument that is wrong.
    """

    shape: tuple[int, ...] | None = None
    low: Bound | None = None
    high: Bound | None = None
    max_change: Bound | None = None

    def __post_init__(self) -> None:
        if self.shape is not None:
            shape = tuple(self.shape) if isinstance(self.shape, Iterable) else (self.shape,)
            if not all(
                isinstance(size, int | np.integer) and not isinstance(size, bool) and size > 0 for size in shape
            ):
                raise ValueError(f"action_spec.shape: expected whole numbers above 0, got {self.shape!r}")
            object.__setattr__(self, "shape", tuple(map(int, shape)))
        for name in ("low", "high", "max_change"):
            value = getattr(self, name)
            if value is None:
                continue
            try:
                bound = np.asarray(value, dtype=np.float64)
            except (TypeError, ValueError):
                raise ValueError(f"action_spec.{name}: expected numbers, got {value!r}") from None
            if np.isnan(bound).any():
                raise ValueError(f"action_spec.{name}: expected numbers, got {value!r}")
            if self.shape is not None and not _fits(bound, self.shape):
                raise ValueError(
                    f"action_spec.{name}: expected a number or one for each of shape {self.shape}, got {value!r}"
                )
            object.__setattr__(self, name, bound)
        low, high = np.asarray(self.low), np.asarray(self.high)
        if self.low is not None and self.high is not None and not _fits_either(low, high):
            raise ValueError(f"action_spec.low: expected as many numbers as in high, {high.shape}, got {low.shape}")
        if self.low is not None and self.high is not None and np.any(low > high):
            raise ValueError(f"action_spec.low: expected at most high ({self.high}), got {self.low}")
        if self.max_change is not None and np.any(np.asarray(self.max_change) <= 0):
            raise ValueError(f"action_spec.max_change: expected numbers above 0, got {self.max_change}")

    def check(self, key: str, actions: Array) -> None:
        """Checks the actions of one key, [T, ...].

        Raises:
            BadActions: the first that breaks a rule.
        """
        self._check_shape(key, actions)
        values, resolution = actions.astype(np.float64, copy=False), _resolution(actions.dtype)
        tolerance = max(resolution, _TOLERANCE)
        for name, bound, sign in (("low", self.low, -1.0), ("high", self.high, 1.0)):
            if bound is None:
                continue
            limit = np.asarray(bound)
            beyond = sign * (values - limit) > tolerance * np.maximum(np.abs(limit), 1.0)
            if beyond.any():
                at = tuple(int(place) for place in np.argwhere(beyond)[0])
                bound_at = np.broadcast_to(limit, values.shape[1:])[at[1:]]
                wanted = f"at {'most' if sign > 0 else 'least'} {name} {bound_at:g}"
                raise BadActions(f"result {key!r}: expected {wanted}, got {values[at]:g} at {list(at)}")
        if self.max_change is not None and len(values) > 1:
            most = np.asarray(self.max_change)
            change = np.abs(np.diff(values, axis=0))
            rounded = resolution * np.maximum(np.abs(values[1:]), np.abs(values[:-1]))
            if (beyond := change > most * (1 + _TOLERANCE) + rounded).any():
                at = tuple(int(place) for place in np.argwhere(beyond)[0])
                wanted = f"a change of at most {np.broadcast_to(most, values.shape[1:])[at[1:]]:g} a step"
                raise BadActions(f"result {key!r}: expected {wanted}, got {change[at]:g} from action {at[0]} on")

    def clip(self, key: str, actions: Array) -> Array:
        """Returns the actions of one key within the limits: values first, then each step's change.

        Raises:
            BadActions: their shape is another, or their dtype has no numbers within the limits.
        """
        self._check_shape(key, actions)
        values = actions.astype(np.float64)
        low = np.asarray(-np.inf if self.low is None else self.low)
        high = np.asarray(np.inf if self.high is None else self.high)
        most = np.asarray(np.inf if self.max_change is None else self.max_change)
        if actions.dtype.kind in "biu":  # to be cast without rounding
            low, high, most = np.ceil(low), np.floor(high), np.floor(most)
        values = np.clip(values, low, high)
        if self.max_change is not None:
            for step in range(1, len(values)):
                values[step] = np.clip(values[step], values[step - 1] - most, values[step - 1] + most)
        with np.errstate(over="ignore", invalid="ignore"):
            clipped = values.astype(actions.dtype)
        self.check(key, clipped)
        return clipped

    def _check_shape(self, key: str, actions: Array) -> None:
        shape = actions.shape[1:]
        if self.shape is not None and shape != self.shape:
            raise BadActions(f"result {key!r}: expected actions of shape {self.shape}, got {shape}")
        for name in ("low", "high", "max_change"):
            bound = getattr(self, name)
            if bound is not None and not _fits(bound, shape):
                raise BadActions(
                    f"result {key!r}: expected actions that {name} of shape {bound.shape} fits, got shape {shape}"
                )


SpecArgument = ActionSpec | Mapping[str, Any] | None
"""An `ActionSpec` or a map of its arguments, or maps of these by the keys of a chunk that is spread over several."""


class ActionSpecs:
    """The specs of a chunk's keys.

    Args:
        argument: one spec for every key, or specs by key; None: any finite actions are good.

    Raises:
        TypeError, ValueError: naming the argument that is wrong.
    """

    def __init__(self, argument: SpecArgument) -> None:
        self._by_key: dict[str, ActionSpec] = {}
        self._any: ActionSpec | None = None
        if argument is None or isinstance(argument, ActionSpec):
            self._any = argument
        elif isinstance(argument, Mapping):
            if argument.keys() <= _SPEC_FIELDS:
                self._any = ActionSpec(**argument)
            else:
                self._by_key = {key: _spec_of(key, value) for key, value in argument.items()}
        else:
            raise TypeError(f"action_spec: expected an ActionSpec, a map or None, got {argument!r}")

    def __bool__(self) -> bool:
        return self._any is not None or bool(self._by_key)

    def of(self, key: str) -> ActionSpec | None:
        """Returns the spec of a key; None where any finite actions are good."""
        return self._by_key.get(key, self._any)

    def axes_of(self, keys: Sequence[str]) -> dict[str, int]:
        """Returns how many axes an action has, for those of the keys of which that is known."""
        specs = {key: self.of(key) for key in keys}
        return {key: len(spec.shape) for key, spec in specs.items() if spec is not None and spec.shape is not None}

    def read(self, values: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Array]:
        """Returns the arrays of a chunk by key, as `read_chunk`, and checks them.

        Raises:
            BadActions: naming the key, what came and what was expected. A spec whose key is not there checks nothing.
        """
        missing = ", ".join(repr(key) for key in self._by_key if key not in keys)
        if missing:
            raise BadActions(f"result: expected actions at {missing}, as action_spec says, got {', '.join(keys)}")
        chunk = read_chunk(values, keys, self.axes_of(keys))
        for key, actions in chunk.items():
            if (spec := self.of(key)) is not None:
                spec.check(key, actions)
        return chunk

    def max_change(self, chunk: Mapping[str, Array]) -> Array | None:
        """Returns the greatest change a step of each value of a chunk's keys side by side; None: any."""
        if not self:
            return None
        rows, is_limited = [], False
        for key, actions in chunk.items():
            spec = self.of(key)
            most = np.inf if spec is None or spec.max_change is None else spec.max_change
            is_limited = is_limited or most is not np.inf
            rows.append(np.broadcast_to(np.asarray(most, dtype=np.float64), actions.shape[1:]).reshape(-1))
        return np.concatenate(rows) if is_limited else None


def _spec_of(key: str, value: Any) -> ActionSpec:
    if isinstance(value, ActionSpec):
        return value
    if isinstance(value, Mapping) and value.keys() <= _SPEC_FIELDS:
        return ActionSpec(**value)
    raise TypeError(
        f"action_spec[{key!r}]: expected an ActionSpec or a map of {', '.join(sorted(_SPEC_FIELDS))}, got {value!r}"
    )


def _fits(bound: Array, shape: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(bound.shape, shape) == shape
    except ValueError:
        return False


def _fits_either(one: Array, other: Array) -> bool:
    return _fits(one, other.shape) or _fits(other, one.shape)


def action_keys(values: Mapping[str, Any], key: str | Sequence[str] | None = None) -> list[str]:
    """Returns the keys of a result that hold its chunk.

    Args:
        values: arrays and strings by key.
        key: where it is, one key or several; None: "actions" or "action", or all that begin with one of
            `PART_PREFIXES`, or the only array.

    Raises:
        BadActions: there is none, naming what there is.
    """
    arrays = [name for name, value in values.items() if isinstance(value, np.ndarray)]
    if key is not None:
        keys = [key] if isinstance(key, str) else list(key)
        wanted = ", ".join(map(repr, keys))
    else:
        keys = [name for name in CHUNK_KEYS if name in arrays][:1]
        keys = keys or [name for name in arrays if name.startswith(PART_PREFIXES)]
        others = [name for name in arrays if name != "confidence"]  # of the model in its chunk
        keys = keys or (others if len(others) == 1 else [])
        wanted = "'actions' or 'action'"
    if not keys or not set(keys) <= set(arrays):
        raise BadActions(f"result: expected an action chunk at {wanted}, got arrays at: {', '.join(arrays) or 'none'}")
    return keys


def read_chunk(
    values: Mapping[str, Any], keys: Sequence[str], axes: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """Returns the arrays of a chunk by key, each [T, ...] with the same T and with finite numbers.

    A single action is a chunk of one.

    Args:
        values: arrays by key.
        keys: those of the chunk.
        axes: how many axes an action has, by key; where it is not given, one, or none where another key has the
            actions of as many steps.

    Raises:
        BadActions: naming the key, what came and what was expected.
    """
    chunk = {key: _actions(key, values[key], (axes or {}).get(key)) for key in keys}
    lengths = {key: len(actions) for key, actions in chunk.items()}
    if len(set(lengths.values())) > 1:
        # Of a key with one number a step, [T] or [1, T] is T actions where the others have as many.
        length = max(lengths.values())
        for key in keys:
            if values[key].shape in ((length,), (1, length)) and (axes or {}).get(key, 0) == 0:
                chunk[key], lengths[key] = values[key].reshape(length), length
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{length} at {key!r}" for key, length in lengths.items())
        raise BadActions(f"result: expected as many actions at each key, got {found}")
    for key, actions in chunk.items():
        if not is_finite(actions):
            at = [int(place) for place in np.argwhere(~np.isfinite(actions.astype(np.float64)))[0]]
            raise BadActions(f"result {key!r}: expected finite numbers, got {actions[tuple(at)]} at {at}")
    return chunk


def is_finite(actions: Array) -> bool:
    """Returns whether all values are finite numbers."""
    return actions.dtype.kind in "biu" or bool(np.isfinite(actions).all())


def of_dtype(values: Array, dtype: np.dtype[Any]) -> Array:
    """Returns numbers in a dtype, the nearest ones: plain casting makes True of 0.3, and 0 of 0.7."""
    if values.dtype == dtype:
        return values
    if dtype.kind == "b":
        return np.asarray(values >= 0.5)
    if dtype.kind in "iu" and values.dtype.kind == "f":
        values = np.rint(values)
    return values.astype(dtype)


def holds_numbers(dtype: np.dtype[Any]) -> bool:
    """Returns whether values are real numbers; types beyond numpy's own, as bfloat16, are of kind V as bytes are."""
    if dtype.kind != "V":
        return dtype.kind in "biuf"
    try:
        np.isfinite(np.empty(0, dtype))
    except TypeError:
        return False
    return True


def _actions(key: str, array: Array, axes: int | None) -> Array:
    """Returns an array as [T, ...]."""
    if np.ma.is_masked(array):
        raise BadActions(f"result {key!r}: expected numbers, got a masked array; a robot has no use for a mask")
    array = np.asarray(array)
    wanted = 1 if axes is None else axes
    if not holds_numbers(array.dtype):
        raise BadActions(f"result {key!r}: expected numbers, got dtype {array.dtype}")
    expected = "expected a chunk [T, action_dim]"
    if array.ndim == 0 or not array.size:
        raise BadActions(f"result {key!r}: {expected}, got shape {array.shape}")
    if array.ndim == wanted:
        return np.expand_dims(array, 0)
    if array.ndim == wanted + 1:
        return array
    if array.ndim == wanted + 2 and array.shape[0] == 1:
        return array.reshape(array.shape[1:])
    raise BadActions(f"result {key!r}: {expected} or [1, T, action_dim], got shape {array.shape}")


@cache
def _resolution(dtype: np.dtype[Any]) -> float:
    """Returns by how much of itself a number may be rounded in a dtype: the difference of 1 and the next number."""
    step = 1.0
    while dtype.kind not in "biu" and np.asarray(1.0 + step / 2).astype(dtype) != 1:
        step /= 2
    return 0.0 if dtype.kind in "biu" else step
