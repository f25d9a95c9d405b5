"""The actions of a robot by control step, and how a new chunk is merged with them.

Action i of a chunk belongs to control step `first_step + i`. The player finds that step: mostly that of the observation
which the chunk answers, so the steps that passed while it was made are skipped, not played late.

No clock and no I/O; the player decides when to request a chunk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from inferential.client.chunks.arguments import check_choice
from inferential.errors import words_of
from inferential.proto.actions import Array, BadActions, holds_numbers, is_finite, of_dtype
from inferential.proto.layout import promoted

Merge = Callable[[Array, Array], Array]
"""Returns the actions to play from the old and the new ones of the same steps, each [K, action_dim]."""

ENSEMBLE_COEFFICIENT = 0.01
"""The coefficient m of temporal ensembling in ACT (Zhao et al., 2023)."""
DEFAULT_AVERAGE = 0.7
"""The weight of the new actions in an average, as in LeRobot's weighted_average."""


class MergeRaised(BadActions):
    """The user's merge function raised an `error`."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"merge: it raised {words_of(error)}")
        self.error = error


class Plan(ABC):
    """Actions by control step."""

    @abstractmethod
    def add(self, first_step: int, actions: Array, order: int | None = None) -> bool:
        """Merges a chunk [T, action_dim]; returns False where it is too old and changes nothing.

        Args:
            first_step: the control step of its first action.
            actions: its actions.
            order: the control step of its observation, by which the newer of two chunks is known; None: `first_step`.

        Raises:
            BadActions: the merge function raised, or returned another shape or what is no finite number; nothing
                changes then.
        """

    @abstractmethod
    def end(self) -> int:
        """Returns the first control step that has no action."""

    @abstractmethod
    def action(self, step: int) -> Array | None:
        """Returns the action of a step, [action_dim]; None where there is none."""

    def passed(self, step: int) -> None:  # noqa: B027 (most plans keep all actions)
        """Notes that the steps before this one have passed."""

    def from_step(self, step: int) -> Array | None:
        """Returns all actions from a step on, [K, action_dim]; None where there is none."""
        actions = [self.action(number) for number in range(step, self.end())]
        found = [action for action in actions if action is not None]
        return np.stack(found) if found else None


class MergedPlan(Plan):
    """Keeps one sequence of actions; a merge function decides where two chunks overlap."""

    def __init__(self, merge: Merge) -> None:
        self._merge = merge
        self._begin = 0
        self._actions: Array | None = None
        self._newest = -1

    def add(self, first_step: int, actions: Array, order: int | None = None) -> bool:
        order = first_step if order is None else order
        if order <= self._newest:
            return False
        old = self._actions
        if old is not None and self.end() > first_step >= self._begin:
            both = min(self.end() - first_step, len(actions))
            merged = self._merged(old[first_step - self._begin :][:both], actions[:both])
            actions = np.concatenate([merged, actions[both:]])
        self._newest, self._begin, self._actions = order, first_step, actions
        return True

    def _merged(self, before: Array, actions: Array) -> Array:
        try:
            merged = np.asarray(self._merge(before.copy(), actions))
        except Exception as error:
            raise MergeRaised(error) from error
        if merged.shape != before.shape:
            raise BadActions(f"merge: expected actions of shape {before.shape}, got {merged.shape}")
        if not holds_numbers(merged.dtype) or not is_finite(merged):
            raise BadActions(f"merge: expected finite numbers, got {merged.dtype} that are not")
        return merged

    def end(self) -> int:
        return self._begin if self._actions is None else self._begin + len(self._actions)

    def action(self, step: int) -> Array | None:
        if self._actions is None or not self._begin <= step < self.end():
            return None
        action: Array = self._actions[step - self._begin]
        return action


class EnsemblePlan(Plan):
    """Averages all chunks that have an action for a step: weight exp(-m i), i = 0 the oldest.

    Temporal ensembling, from *Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware* (Zhao et al., 2023).
    """

    def __init__(self, coefficient: float = ENSEMBLE_COEFFICIENT) -> None:
        self._coefficient = coefficient
        self._chunks: dict[int, tuple[int, Array]] = {}  # by the step of their observation
        self._passed = 0

    def add(self, first_step: int, actions: Array, order: int | None = None) -> bool:
        order = first_step if order is None else order
        if order in self._chunks or first_step + len(actions) <= self._passed:
            return False
        self._chunks[order] = first_step, actions
        return True

    def end(self) -> int:
        return max((begin + len(actions) for begin, actions in self._chunks.values()), default=0)

    def action(self, step: int) -> Array | None:
        chunks = [self._chunks[order] for order in sorted(self._chunks)]
        found = [actions[step - begin] for begin, actions in chunks if 0 <= step - begin < len(actions)]
        if not found:
            return None
        weights, actions = np.exp(-self._coefficient * np.arange(len(found))), np.stack(found)
        return of_dtype(np.asarray(np.average(actions, axis=0, weights=weights)), actions.dtype)

    def passed(self, step: int) -> None:
        self._passed = step
        self._chunks = {order: one for order, one in self._chunks.items() if one[0] + len(one[1]) > step}


def replace(old: Array, new: Array) -> Array:
    """Returns the actions of the new chunk."""
    return new


def average(weight: float = DEFAULT_AVERAGE) -> Merge:
    """Returns a merge function: (1 - weight) * old + weight * new.

    Args:
        weight: of the new actions, 0 to 1.

    Raises:
        ValueError: the weight is outside of that.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight: expected a number from 0 to 1, got {weight!r}")

    def merge(old: Array, new: Array) -> Array:
        return of_dtype(np.asarray((1 - weight) * old + weight * new), promoted(old.dtype, new.dtype))

    return merge


_NAMED: dict[str, Callable[[], Plan]] = {
    "replace": lambda: MergedPlan(replace),
    "average": lambda: MergedPlan(average()),
    "ensemble": EnsemblePlan,
}


def new_plan(merge: str | Merge) -> Plan:
    """Returns an empty plan.

    Args:
        merge: "replace", "average", "ensemble", or a function.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor a function.
    """
    check_choice("merge", merge, *_NAMED)
    return _NAMED[merge]() if isinstance(merge, str) else MergedPlan(merge)
