"""The benchmark of robots kept up against load: that it runs, and what it shows."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

ROOT = Path(__file__).parents[2]
PEERS = ("1.4.0", "LitServe", "Ray Serve", "openpi-server")
SOFTWARE = ("deadline_aware", *PEERS)


def cell(strategy: str, load: float, kept_up: int, **other: Any) -> dict[str, Any]:
    return {
        "software": "this",
        "strategy": strategy,
        "task": "hopper",
        "load": load,
        "seed": 0,
        "robots": 4,
        "kept_up": kept_up,
        "falls": 4 - kept_up,
        "up_share": kept_up / 4,
        "age_p50_ms": 20.0,
        "age_p95_ms": 40.0,
        "on_time": 1.0,
        "actions_per_s": 100.0,
        "served_per_s": 100.0,
        "mean_batch_size": 4.0,
        "refused": 0,
        "behind": 0.0,
        **other,
    }


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module(f"bench.closed_loop.{name}")


def text(shown: Any) -> list[str]:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(shown)
    return console.export_text().splitlines()


def test_the_table_has_a_row_for_each_cell_by_load(monkeypatch: pytest.MonkeyPatch) -> None:
    report = module("report", monkeypatch)
    cells = [cell("b", 2.0, 1), cell("a", 0.5, 4), cell("a", 2.0, 0, age_p50_ms=None, age_p95_ms=None)]
    rows = [line.split() for line in text(report.table(cells)) if "/4" in line]
    assert rows[0][:4] == ["hopper", "0.5x", "a", "4/4"]
    assert rows[1][:4] == ["hopper", "2x", "b", "1/4"]
    assert rows[2][:5] == ["a", "0/4", "0.0%", "4", "-"]


def test_a_machine_that_was_too_busy_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    report = module("report", monkeypatch)
    (warning,) = report.warnings([cell("a", 1.0, 4, behind=0.2), cell("b", 1.0, 4, behind=0.005)])
    assert warning.startswith("hopper, load 1x, a: 20% of all control periods began late")


@pytest.mark.parametrize("draw", ["save", "save_peers"])
def test_the_same_figures_give_the_same_picture(draw: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save = getattr(module("picture", monkeypatch), draw)
    cells = [cell("a", load, 4) for load in (0.5, 2.0)]
    cells += [cell("1.4.0", 2.0, 1, software="1.4.0", age_p50_ms=None)]  # no action came
    first, second = (save(cells, tmp_path / name / "shown.png") for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_a_strategy_that_is_not_known_is_one_clear_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.closed_loop", "--strategies", "best"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "no strategy 'best'; there are: batch_optimized" in done.stderr


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    """The fields of each row of the table of one run: this and the peers. The first run makes their environments."""
    saved = ROOT / "bench" / "results" / "closed_loop.json"
    before = saved.read_bytes() if saved.exists() else None
    order = ["--quick", "--loads", "0.7", "--tasks", "hopper", "--strategies", ",".join(SOFTWARE), "--robots", "4"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.closed_loop", *order],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (saved.read_bytes() if saved.exists() else None) == before
    return [line.rpartition("%")[0].split() for line in done.stdout.splitlines() if "/4" in line and "%" in line]


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("software", SOFTWARE)
def test_each_software_drives_the_same_robots(software: str, rows: list[list[str]]) -> None:
    (row,) = [row for row in rows if software in " ".join(row)]
    actions_per_s = float(row[-3])  # how many robots it keeps up is what is measured
    assert actions_per_s > 0
