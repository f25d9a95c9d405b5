"""Runs plans at the same time, each in a process of its own, and looks at what the machine does meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any, Self

import psutil

from bench.overload.clients import Outcome, Plan, drive

_CONNECT_S, _CONNECT_EACH_S = 2.0, 0.002
"""Before the first observation: a process starts, and connects its clients one by one."""


def start_of(plans: Sequence[Plan]) -> float:
    """Returns when the plans can begin: their processes have started and connected by then."""
    return time.monotonic() + _CONNECT_S + _CONNECT_EACH_S * max(plan.clients for plan in plans)


def together(plans: Sequence[Plan], start: float | None = None) -> list[Outcome]:
    """Runs the plans side by side; their `start` is set here, to the same instant."""
    start = start_of(plans) if start is None else start
    with ProcessPoolExecutor(len(plans), multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(drive, [replace(plan, start=start) for plan in plans]))


class Cpu:
    """Measures the CPU time of a process and the machine's load; a context manager."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process

    def __enter__(self) -> Self:
        self._began, self._used = time.monotonic(), sum(self._process.cpu_times()[:2])
        return self

    def __exit__(self, *error: object) -> None:
        used = sum(self._process.cpu_times()[:2]) - self._used
        self._share = used / (time.monotonic() - self._began)
        self._load = os.getloadavg()[0]
        self._rss = self._process.memory_info().rss

    def figures(self) -> dict[str, Any]:
        """Returns the share of a core, connecting included, the resident memory and the load of the machine."""
        return {
            "server_cpu": round(self._share, 2),
            "server_rss_mib": round(self._rss / 2**20),
            "machine_load": round(self._load, 1),
        }
