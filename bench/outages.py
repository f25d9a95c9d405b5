"""How soon a robot that plays chunks acts again after an outage, over many draws, beside what its network allows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from bench.network import kinds, run_cells
from bench.network.cell import NETWORKS, Cell
from bench.network.least import least

_DRAWS, _LOSSY_DRAWS, _SHORT_DRAWS = 8, 24, 2
"""Robots on each network; more where packets are lost, as one that is costs more than all the rest."""


def run(seconds: float) -> dict[str, Any]:
    """Returns for each kind of network and network the least that is possible, and what each of the robots had.

    Args:
        seconds: twice as long a robot runs before the cut, and at least 500 steps after it.
    """
    return {kind: CASES[kind](seconds) for kind in kinds()}


def run_quick(seconds: float) -> dict[str, Any]:
    """Two robots, emulated."""
    return {"emulated": _measure("emulated", dict.fromkeys(NETWORKS, _SHORT_DRAWS), seconds / 2)}


def _measure(kind: str, draws: Mapping[str, int], seconds: float) -> dict[str, Any]:
    cells = [
        Cell(kind, network, "chunks", seconds, seed) for network, count in draws.items() for seed in range(1, count + 1)
    ]
    found: dict[str, Any] = {network: {"least": least(kind, network), "runs": []} for network in NETWORKS}
    for cell, row in zip(cells, run_cells(cells), strict=True):
        found[cell.network]["runs"].append(row)
    return found


def _case(kind: str, seconds: float) -> dict[str, Any]:
    draws = {name: _LOSSY_DRAWS if profile.loss else _DRAWS for name, (profile, _) in NETWORKS.items()}
    return _measure(kind, draws, 2 * seconds)


CASES = {kind: partial(_case, kind) for kind in ("emulated", "packets")}
SAVES_CASES = True
