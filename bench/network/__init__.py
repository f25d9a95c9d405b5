"""Robots over bad networks: how old answers are, how many steps starve, and how soon a robot acts again after a cut.

Each cell is a robot that is cut off for 5 s. Its network is emulated in the process (`inferential.sim.network`),
deterministic by a seed; where the machine allows that, it is also a real one of IP packets (`bench.network.tunnel`), so
that the system's own TCP meets loss and cut. The server's policy takes 30 ms. Robots ask synchronously (`infer` before
each step), go on observing (`observe`, `get_result`), or play chunks of 50 steps at 50 Hz: with `ChunkRuntime`, with
openpi's own client, or by the rules of LeRobot's client, over the gateways.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any

from bench.network import tunnel
from bench.network.cell import NETWORKS, OPENPI, ROBOTS, Cell

_SEEDS = (1, 2, 3)
_AT_ONCE = 12
"""Cells that run side by side: each takes less than a tenth of a core."""


def run(seconds: float) -> dict[str, Any]:
    """Returns ages, starved steps and the time back after the cut, by kind of network, network and robot: a row for
    each of some robots with draws of their own.

    Args:
        seconds: twice as long a robot runs before the cut, and at least 500 steps after it.
    """
    return {kind: CASES[kind](seconds) for kind in kinds()}


def run_quick(seconds: float) -> dict[str, Any]:
    """One network, emulated."""
    return {"emulated": _measure("emulated", list(NETWORKS)[:1], seconds / 2, _SEEDS[:1])}


def kinds() -> Sequence[str]:
    """Returns the kinds of network that this machine can make."""
    return ("emulated", "packets") if tunnel.is_available() else ("emulated",)


def _measure(kind: str, networks: Sequence[str], seconds: float, seeds: Sequence[int]) -> dict[str, Any]:
    OPENPI.python()  # made once, before cells need it
    cells = [Cell(kind, network, robot, seconds, seed) for network in networks for robot in ROBOTS for seed in seeds]
    found: dict[str, Any] = {}
    for cell, row in zip(cells, run_cells(cells), strict=True):
        found.setdefault(cell.network, {}).setdefault(cell.robot, []).append(row)
    return found


def _case(kind: str, seconds: float) -> dict[str, Any]:
    return _measure(kind, list(NETWORKS), 2 * seconds, _SEEDS)


CASES = {kind: partial(_case, kind) for kind in ("emulated", "packets")}
SAVES_CASES = True


def run_cells(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Runs cells, some side by side, each in a process of its own; returns their rows in order."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(_run, cells))


def _run(cell: Cell) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.network", json.dumps(asdict(cell))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=cell.seconds + 120, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:]}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row
