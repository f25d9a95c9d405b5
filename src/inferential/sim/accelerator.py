"""Stands in for an accelerator that several models share: a call takes its cost, and one runs at a time.

The policies compute; what they leave of a call's cost is slept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

FULL_BATCH = 8
_FIXED_MS, _PER_ROW_MS = 10.0, 1.0  # before `load` scales them; only their ratio stays


@dataclass(frozen=True, slots=True)
class Cost:
    """Holds what one call takes: `fixed_ms` and `per_row_ms` for each observation in it."""

    fixed_ms: float
    per_row_ms: float

    def of(self, rows: int) -> float:
        """Returns the milliseconds of a call with so many rows."""
        return self.fixed_ms + rows * self.per_row_ms


@dataclass(frozen=True, slots=True)
class MeasuredCost:
    """Holds what one call takes, by its rows: `by_rows_ms[0]` of one, and so on."""

    by_rows_ms: Sequence[float]

    def of(self, rows: int) -> float:
        """Returns the milliseconds of a call with so many rows."""
        return self.by_rows_ms[rows - 1]


class CallCost(Protocol):
    """Says how long a call takes."""

    def of(self, rows: int) -> float:
        """Returns the milliseconds of a call with so many rows."""


def cost_for_load(load: float, robots_by_rate_hz: Mapping[float, int]) -> Cost:
    """Returns the cost at which a fleet keeps the accelerator busy for `load` seconds in a second.

    That is with every observation answered, in batches as full as the fleet allows: robots of one control rate
    share a model and a batch of up to 8. At load 1 there is just enough time; at 2, every other observation at
    best is answered.
    """
    base = Cost(_FIXED_MS, _PER_ROW_MS)
    busy_ms = sum(
        rate_hz * (-(-robots // FULL_BATCH) * base.fixed_ms + robots * base.per_row_ms)
        for rate_hz, robots in robots_by_rate_hz.items()
    )
    scale = load * 1e3 / busy_ms
    return Cost(_FIXED_MS * scale, _PER_ROW_MS * scale)


class Policy(Protocol):
    """Answers several observations in one call."""

    max_batch_size: int

    def infer_batch(self, observations: Sequence[Any]) -> list[Any]: ...


class Accelerator:
    """Takes one call at a time; the others wait for it.

    Args:
        cost: what a call takes.
        clock: seconds.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        cost: CallCost,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.cost = cost
        self._clock = clock
        self._sleep = sleep
        self._busy = threading.Lock()

    def run(self, policy: Policy, observations: Sequence[Any]) -> list[Any]:
        """Runs a policy; takes as long as the cost says, or as the policy itself takes if that is longer."""
        with self._busy:
            until = self._clock() + self.cost.of(len(observations)) / 1e3
            results = policy.infer_batch(observations)
            self._sleep(max(until - self._clock(), 0.0))
        return results


class AcceleratedModel:
    """Runs a policy on an accelerator: the model that the server is given."""

    def __init__(self, policy: Policy, accelerator: Accelerator) -> None:
        self.max_batch_size: int = policy.max_batch_size
        self._policy = policy
        self._accelerator = accelerator

    @property
    def cost(self) -> CallCost:
        """Returns what a call takes."""
        return self._accelerator.cost

    def infer_batch(self, observations: Sequence[Any]) -> list[Any]:
        """Runs the policy, one result for each observation."""
        return self._accelerator.run(self._policy, observations)
