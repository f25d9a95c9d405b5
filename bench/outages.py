"""How soon a robot that plays chunks acts again after an outage, over many draws, beside what its network allows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from bench.network import kinds, run_cells
from bench.network.cell import NETWORKS, Cell
from bench.network.least import least

_SEEDS = tuple(range(1, 9))
_SHORT_SEEDS = (1, 2)


def run(seconds: float) -> dict[str, Any]:
    """Returns for each kind of network and network the least that is possible, and what eight robots had.

    Args:
        seconds: twice as long a robot runs before the cut, and at least 500 steps after it.
    """
    return {kind: CASES[kind](seconds) for kind in kinds()}


def run_quick(seconds: float) -> dict[str, Any]:
    """Two robots, emulated."""
    return {"emulated": _measure("emulated", _SHORT_SEEDS, seconds / 2)}


def _measure(kind: str, seeds: Sequence[int], seconds: float) -> dict[str, Any]:
    cells = [Cell(kind, network, "chunks", seconds, seed) for network in NETWORKS for seed in seeds]
    found: dict[str, Any] = {network: {"least": least(kind, network), "runs": []} for network in NETWORKS}
    for cell, row in zip(cells, run_cells(cells), strict=True):
        found[cell.network]["runs"].append(row)
    return found


def _case(kind: str, seconds: float) -> dict[str, Any]:
    return _measure(kind, _SEEDS, 2 * seconds)


CASES = {kind: partial(_case, kind) for kind in ("emulated", "packets")}
SAVES_CASES = True
