"""Policies as people write them, which cost nothing; a process of its own imports this file alone."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

HOLD_S = 0.03
ACTION = np.zeros(16, dtype=np.float32)


def policy(observation: dict[str, Any]) -> Any:
    """Returns the same action for every observation."""
    return ACTION


def holding(observation: dict[str, Any]) -> Any:
    """Computes in plain Python for HOLD_S, and so holds the interpreter's lock."""
    until = time.perf_counter() + HOLD_S
    while time.perf_counter() < until:
        pass
    return ACTION


class BatchPolicy:
    """The same for a batch."""

    max_batch_size = 8

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        """Returns the same action for every observation."""
        return [ACTION] * len(observations)
