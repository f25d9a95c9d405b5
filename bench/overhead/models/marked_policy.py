"""A policy that costs nothing, in a process that notes when it wakes, calls and answers; `bench.stages` asks it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from inferential.replica.worker import Worker

ACTION = np.zeros(16, dtype=np.float32)
MARKS: dict[str, list[int]] = {"worker woken": [], "model called": [], "result written": []}


def policy(observation: dict[str, Any]) -> Any:
    """Returns the same action for every observation; the marks so far where it asks for a `report`."""
    if "report" in observation:
        return {name: np.array(marks) for name, marks in MARKS.items()}
    MARKS["model called"].append(time.perf_counter_ns())
    return ACTION


def _mark(name: str, marks: list[int], *, after: bool) -> None:
    function: Callable[..., Any] = getattr(Worker, name)

    def marked(*args: Any) -> Any:
        if not after:
            marks.append(time.perf_counter_ns())
        result = function(*args)
        if after:
            marks.append(time.perf_counter_ns())
        return result

    setattr(Worker, name, marked)


_mark("_read", MARKS["worker woken"], after=True)
_mark("_flush", MARKS["result written"], after=False)
