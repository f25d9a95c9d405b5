"""A policy of `bench.policies` in its worker, which adds up how long its calls take and what lies between them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inferential.replica.targets import load_target


class Times(NamedTuple):
    """Sums since the worker started, in seconds.

    Attributes:
        calls: how many there were.
        running: in the policy.
        cpu: of that, what its thread had of a core.
        between: from the end of a call to the begin of the next.
    """

    calls: float
    running: float
    cpu: float
    between: float


def new_times(path: Path) -> Any:
    """Returns an array in a file for a worker to write to."""
    return np.memmap(path, np.float64, "w+", shape=len(Times._fields))


class TimedPolicy:
    """Runs a policy, and writes `Times`.

    Args:
        target: of the policy.
        times: the file.
        args: of the target.
    """

    def __init__(self, target: str, times: str, **args: Any) -> None:
        self._policy = load_target(target, args)
        self._times = np.memmap(times, np.float64, "r+", shape=len(Times._fields))
        self._ended = time.perf_counter()
        self.max_batch_size = self._policy.max_batch_size

    def infer(self, observation: Mapping[str, Any]) -> Any:
        """As the policy's."""
        return self.infer_batch([observation])[0]

    def infer_batch(self, observations: Sequence[Mapping[str, Any]]) -> Any:
        """As the policy's."""
        began, cpu = time.perf_counter(), time.thread_time()
        results = self._policy.infer_batch(observations)
        ended = time.perf_counter()
        self._times += Times(1, ended - began, time.thread_time() - cpu, began - self._ended)
        self._ended = ended
        return results
