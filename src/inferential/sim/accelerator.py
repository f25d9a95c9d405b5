"""One accelerator that several models share, as far as time is concerned.

It computes nothing: the policies do, and what they leave of a call's cost is waited for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

FULL_BATCH = 8
_FIXED_MS, _PER_ROW_MS = 10.0, 1.0  # 18 ms for 8 rows, before `load` scales them


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call takes: `fixed_ms` and `per_row_ms` for each observation in it."""

    fixed_ms: float
    per_row_ms: float

    def of(self, rows: int) -> float:
        """Milliseconds of a call with so many rows."""
        return self.fixed_ms + rows * self.per_row_ms

    @property
    def rows_per_s(self) -> float:
        """What full batches of 8, one after another, get through."""
        return FULL_BATCH / self.of(FULL_BATCH) * 1e3


def cost_for_load(load: float, control_rates_hz: Iterable[float]) -> Cost:
    """The cost at which a fleet offers `load` times what full batches of 8 get through.

    At load 1 the accelerator keeps up only if every batch is full; at 2 every other observation at best is answered.
    """
    base = Cost(_FIXED_MS, _PER_ROW_MS)
    scale = load * base.rows_per_s / sum(control_rates_hz)
    return Cost(_FIXED_MS * scale, _PER_ROW_MS * scale)


class Policy(Protocol):
    """A policy that batches."""

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
        cost: Cost,
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
    """A policy on an accelerator: the model that the server is given."""

    def __init__(self, policy: Policy, accelerator: Accelerator) -> None:
        self.max_batch_size = policy.max_batch_size
        self._policy = policy
        self._accelerator = accelerator

    def infer_batch(self, observations: Sequence[Any]) -> list[Any]:
        """As the policy's."""
        return self._accelerator.run(self._policy, observations)
