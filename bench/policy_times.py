"""A policy of `bench.policies` in its worker, which adds up how long its calls take and what lies between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inferential.replica.stacked import StackedModel
from inferential.replica.targets import load_target


class Times(NamedTuple):
    """Sums since the worker started, in seconds.

    Attributes:
        calls: how many there were.
        running: in the policy.
        cpu: of that, what its thread had of a core.
        process: what the whole process had of the cores.
        between: from the end of a call to the begin of the next.
    """

    calls: float
    running: float
    cpu: float
    process: float
    between: float


def new_times(path: Path) -> Any:
    """Returns an array in a file for a worker to write to."""
    return np.memmap(path, np.float64, "w+", shape=len(Times._fields))


def timed(target: str, times: str, **args: Any) -> TimedPolicy:
    """Returns a policy that writes `Times`.

    Args:
        target: of the policy.
        times: the file.
        args: of the target.
    """
    policy = load_target(target, args)
    return (TimedStackedPolicy if isinstance(policy, StackedModel) else TimedPolicy)(policy, times)


class TimedPolicy:
    """Runs a policy, and writes `Times`; `timed` makes it."""

    def __init__(self, policy: Any, times: str) -> None:
        self._policy = policy
        self._times = np.memmap(times, np.float64, "r+", shape=len(Times._fields))
        self._ended, self._process = time.perf_counter(), time.process_time()
        self.max_batch_size = policy.max_batch_size

    def infer(self, observation: Mapping[str, Any]) -> Any:
        """As the policy's."""
        return self.infer_batch([observation])[0]

    def infer_batch(self, observations: Sequence[Mapping[str, Any]]) -> Any:
        """As the policy's."""
        return self._timed(self._policy.infer_batch, observations)

    def _timed(self, run: Callable[[Any], Any], given: Any) -> Any:
        began, cpu = time.perf_counter(), time.thread_time()
        results = run(given)
        ended, process = time.perf_counter(), time.process_time()
        took = Times(1, ended - began, time.thread_time() - cpu, process - self._process, began - self._ended)
        self._times += took
        self._ended, self._process = ended, process
        return results


class TimedStackedPolicy(TimedPolicy):
    """The same of a policy that takes several observations as arrays."""

    def __init__(self, policy: Any, times: str) -> None:
        super().__init__(policy, times)
        self.inputs = policy.inputs

    def infer_stacked(self, arrays: dict[str, Any]) -> Any:
        """As the policy's."""
        return self._timed(self._policy.infer_stacked, arrays)
