"""How the arrays of a chunk lie side by side in one, and how an action is taken apart again. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from inferential.proto.actions import Array, BadActions, of_dtype

_ONE_NUMBER = {(), (1,)}
"""The shapes of one number a step: [T] beside keys of as many actions, and [1] where T is 1, which is an action too."""


class Layout:
    """How the arrays of a chunk lie side by side in one, [T, N]; played actions are taken apart again.

    Args:
        chunk: the arrays by key, each [T, ...].
        is_spread: whether actions are maps by key; else there is one key, and an action is its array.
    """

    def __init__(self, chunk: Mapping[str, Array], *, is_spread: bool) -> None:
        self._parts = {key: (actions.shape[1:], actions.dtype) for key, actions in chunk.items()}
        self.is_spread: bool = is_spread
        self._whole: Array | None = None

    @property
    def shapes(self) -> Any:
        """The shape of an action, or the shapes by key."""
        shapes = {key: shape for key, (shape, _) in self._parts.items()}
        return shapes if self.is_spread else next(iter(shapes.values()))

    @property
    def whole(self) -> Array:
        """Which values of an action are whole numbers or booleans, [N]."""
        if self._whole is None:
            sizes = [(int(np.prod(shape, dtype=int)), dtype) for shape, dtype in self._parts.values()]
            self._whole = np.concatenate([np.full(size, dtype.kind in "biu") for size, dtype in sizes])
        return self._whole

    def join(self, chunk: Mapping[str, Array]) -> Array:
        """Returns the arrays of another chunk side by side.

        Raises:
            BadActions: an action has another shape than before.
        """
        if chunk.keys() != self._parts.keys():
            raise BadActions(f"result: expected actions at {', '.join(self._parts)}, got {', '.join(chunk)}")
        for key, actions in chunk.items():
            shape = self._parts[key][0]
            if actions.shape[1:] != shape and {actions.shape[1:], shape} != _ONE_NUMBER:
                raise BadActions(
                    f"result {key!r}: expected actions of shape {shape} as before, got {actions.shape[1:]}"
                )
        rows = [chunk[key].reshape(len(chunk[key]), -1) for key in self._parts]  # whatever order they came in
        return rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)

    def widen(self, chunk: Mapping[str, Array]) -> None:
        """Has the arrays of a key hold the numbers of another chunk too: an int of today may be a float tomorrow."""
        for key, actions in chunk.items():
            shape, dtype = self._parts[key]
            if dtype != actions.dtype:
                self._parts[key] = shape, promoted(dtype, actions.dtype)
                self._whole = None

    def split(self, action: Array) -> Any:
        """Returns an action [N] in the form of those that came: an array, or arrays by key."""
        if not self.is_spread:
            ((shape, _),) = self._parts.values()
            return action.reshape(shape)
        parts, at = {}, 0
        for key, (shape, dtype) in self._parts.items():
            size = int(np.prod(shape, dtype=int))
            parts[key] = of_dtype(action[at : at + size].reshape(shape), dtype)
            at += size
        return parts

    def flat(self, action: Any) -> Array:
        """Returns an action of that form as [N].

        Raises:
            BadActions: it has another form.
        """
        parts = action if isinstance(action, Mapping) else {next(iter(self._parts)): action}
        (row,) = self.join({key: np.asarray(value)[np.newaxis] for key, value in parts.items()})
        return np.asarray(row)


def promoted(one: np.dtype[Any], other: np.dtype[Any]) -> np.dtype[Any]:
    """Returns a dtype that holds the numbers of both; the other where none is known."""
    try:
        return np.promote_types(one, other)
    except TypeError:  # types beyond numpy's own do not all know each other
        return other
