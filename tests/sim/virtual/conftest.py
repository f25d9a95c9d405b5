"""Small worlds to simulate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from inferential.sim.virtual import generate
from inferential.sim.virtual.fleet_file import Fleet
from inferential.sim.virtual.simulation import simulate
from inferential.sim.virtual.world import Run


def simulated(
    fleet: Fleet,
    strategy: str = "slo_aware",
    seconds: float = 5.0,
    *,
    profiled: bool = True,
    options: dict[str, Any] | None = None,
) -> Run:
    """Simulates all robots of a fleet, with the chances of seed 0."""
    return simulate(
        generate.models(fleet),
        generate.arrivals(fleet, seconds=seconds, seed=0),
        strategy,
        seconds=seconds,
        seed=0,
        robots=generate.chunked_robots(fleet, seed=0),
        options=options,
        profiled=profiled,
    )


@pytest.fixture(scope="session")
def make_fleet() -> Callable[..., Fleet]:
    """`make_fleet({"m": {...}}, arm={...})`: one model of 10 ms and two robots at 20 Hz where nothing else is given."""

    def make(models: dict[str, Any] | None = None, **robots: dict[str, Any]) -> Fleet:
        defaults = {"model": "m", "count": 2, "rate_hz": 20, "budget_ms": 100}
        return Fleet.model_validate(
            {
                "models": models or {"m": {"fixed_ms": 9, "per_row_ms": 1, "max_batch_size": 2, "spread": 0}},
                "robots": {name: {**defaults, **own} for name, own in (robots or {"arm": {}}).items()},
            }
        )

    return make
