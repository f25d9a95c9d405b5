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
from typing import Any

from bench.network import tunnel
from bench.network.cell import NETWORKS, OPENPI, ROBOTS, Cell

_AT_ONCE = 6
"""Cells that run side by side: each takes less than a tenth of a core."""


def run(seconds: float) -> dict[str, Any]:
    """Returns ages, starved steps and the time back after the cut, by network, robot and kind of network.

    Args:
        seconds: twice as long a robot runs before the cut, and at least 500 steps after it.
    """
    return measure([Cell(kind, net, robot, 2 * seconds) for kind in kinds() for net in NETWORKS for robot in ROBOTS])


def run_quick(seconds: float) -> dict[str, Any]:
    """One network, emulated."""
    return measure([Cell("emulated", next(iter(NETWORKS)), robot, seconds / 2) for robot in ROBOTS])


def kinds() -> Sequence[str]:
    """Returns the kinds of network that this machine can make."""
    return ("emulated", "packets") if tunnel.is_available() else ("emulated",)


def measure(cells: Sequence[Cell]) -> dict[str, Any]:
    """Returns the rows of cells by kind, network and robot."""
    OPENPI.python()  # made once, before they need it
    found: dict[str, Any] = {}
    for cell, row in zip(cells, run_cells(cells), strict=True):
        found.setdefault(cell.kind, {}).setdefault(cell.network, {})[cell.robot] = row
    return found


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
