"""Pictures: drawn from real runs, the same each time, as PNG and SVG."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferential.sim.virtual import generate, pictures
from inferential.sim.virtual.fleet_file import example
from inferential.sim.virtual.simulation import simulate
from inferential.sim.virtual.world import Run


@pytest.fixture(scope="module")
def run() -> Run:
    fleet = example("shared")
    arrivals = generate.arrivals(fleet, seconds=3, seed=0, load=1.5)
    return simulate(generate.models(fleet), arrivals, "slo_aware", seconds=3, seed=0)


def test_ages_timeline_and_goodput_are_drawn(run: Run, tmp_path: Path) -> None:
    drawn = [tmp_path / f"{name}.{kind}" for name in ("ages", "timeline", "goodput") for kind in ("png", "svg")]
    pictures.save_ages([run], drawn[:2])
    pictures.save_timeline(run, drawn[2:4], begin_s=1.0, models=["control", "chunks"])
    curves = {"shared": {"slo_aware": [(0.5, 10.0), (1.0, 20.0)], "bound": [(0.5, 11.0), (1.0, 22.0)]}}
    pictures.save_goodput(curves, drawn[4:])
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn if path.suffix == ".png")
    texts = {path.stem: path.read_text() for path in drawn if path.suffix == ".svg"}
    assert all("<svg" in text for text in texts.values())
    assert texts["timeline"].count("<path") > 20
