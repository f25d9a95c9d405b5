"""The actions that a robot has, by control step, and how a new chunk joins them.

Action i of a chunk belongs to control step `observed_step + i`: a chunk is aligned by the observation that it answers,
so that the steps which passed while it was made are skipped, not played late.

No clock and no I/O; when to ask for a chunk is the player's business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Merge = Callable[[Array, Array], Array]
"""From the old and the new actions of the steps that both have, each [K, action_dim], to those that hold."""

ENSEMBLE_COEFFICIENT = 0.01
"""m of temporal ensembling, as in ACT (Zhao et al., 2023)."""
DEFAULT_AVERAGE = 0.7
"""Weight of the new actions in an average, that of LeRobot's weighted_average."""


class Plan(ABC):
    """Actions by control step."""

    @abstractmethod
    def add(self, observed_step: int, actions: Array) -> bool:
        """Joins a chunk [T, action_dim]; False where it is older than what there is, and changes nothing.

        Args:
            observed_step: the control step of the observation that it answers.
            actions: its actions.
        """

    @abstractmethod
    def end(self) -> int:
        """The first control step that has no action."""

    @abstractmethod
    def action(self, step: int) -> Array | None:
        """The action of a step [action_dim], None where it has none."""

    def passed(self, step: int) -> None:  # noqa: B027 (most keep what they have)
        """The steps before this one have passed."""

    def from_step(self, step: int) -> Array | None:
        """All actions from a step on, [K, action_dim]; None where there is none."""
        actions = [self.action(number) for number in range(step, self.end())]
        found = [action for action in actions if action is not None]
        return np.stack(found) if found else None


class MergedPlan(Plan):
    """Keeps one line of actions; a merge function decides where two chunks overlap."""

    def __init__(self, merge: Merge) -> None:
        self._merge = merge
        self._begin = 0
        self._actions: Array | None = None
        self._newest = -1

    def add(self, observed_step: int, actions: Array) -> bool:
        if observed_step <= self._newest:
            return False
        self._newest = observed_step
        old = self._actions
        if old is not None and self.end() > observed_step >= self._begin:
            both = min(self.end() - observed_step, len(actions))
            before = old[observed_step - self._begin :][:both]
            merged = np.asarray(self._merge(before, actions[:both]))
            if merged.shape != before.shape:
                raise ValueError(f"merge: expected actions of shape {before.shape}, got {merged.shape}")
            actions = np.concatenate([merged, actions[both:]])
        self._begin, self._actions = observed_step, actions
        return True

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
        self._chunks: dict[int, Array] = {}
        self._passed = 0

    def add(self, observed_step: int, actions: Array) -> bool:
        if observed_step in self._chunks or observed_step + len(actions) <= self._passed:
            return False
        self._chunks[observed_step] = actions
        return True

    def end(self) -> int:
        return max((begin + len(actions) for begin, actions in self._chunks.items()), default=0)

    def action(self, step: int) -> Array | None:
        found = [self._chunks[begin][step - begin] for begin in sorted(self._chunks) if self._has(begin, step)]
        if not found:
            return None
        weights = np.exp(-self._coefficient * np.arange(len(found)))
        return np.asarray(np.average(np.stack(found), axis=0, weights=weights), dtype=found[0].dtype)

    def passed(self, step: int) -> None:
        self._passed = step
        self._chunks = {begin: chunk for begin, chunk in self._chunks.items() if begin + len(chunk) > step}

    def _has(self, begin: int, step: int) -> bool:
        return 0 <= step - begin < len(self._chunks[begin])


def replace(old: Array, new: Array) -> Array:
    """The new chunk holds."""
    return new


def average(weight: float = DEFAULT_AVERAGE) -> Merge:
    """A merge by weighted average.

    Args:
        weight: of the new actions, 0 to 1.

    Raises:
        ValueError: a weight outside of that.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight: expected a number from 0 to 1, got {weight!r}")

    def merge(old: Array, new: Array) -> Array:
        return np.asarray((1 - weight) * old + weight * new, dtype=new.dtype)

    return merge


_NAMED: dict[str, Callable[[], Plan]] = {
    "replace": lambda: MergedPlan(replace),
    "average": lambda: MergedPlan(average()),
    "ensemble": EnsemblePlan,
}


def new_plan(merge: str | Merge) -> Plan:
    """An empty plan.

    Args:
        merge: "replace", "average", "ensemble", or a function.

    Raises:
        ValueError: an unknown name.
    """
    if not isinstance(merge, str):
        return MergedPlan(merge)
    if merge not in _NAMED:
        raise ValueError(f"merge: expected one of {', '.join(_NAMED)} or a function, got {merge!r}")
    return _NAMED[merge]()
