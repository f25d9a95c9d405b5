"""What is gathered of a run, and shown: above all of a run that went badly."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from inferential.sim import plot, table
from inferential.sim.driver import RobotReport
from inferential.sim.fleet import Plan, ServerReport
from inferential.sim.watch import Watch


def text(shown: RenderableType) -> str:
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(shown)
    return console.export_text()


@pytest.fixture
def starved() -> Watch:
    """Of a fleet that never got an action, on a machine that was too busy."""
    watch = Watch(Plan(robots=2, seconds=2.0, strategy="round_robin"))
    for name in ("cartpole-00", "cartpole-02"):
        report = RobotReport(name, "cartpole", 50.0, 100.0, up=False, falls=1, up_share=0.5, periods=100, behind=20)
        watch.take([[report]])
    watch.take([ServerReport(queue_depth=2)])
    return watch


@pytest.fixture
def served() -> Watch:
    """Of one robot of which two reports came."""
    watch = Watch(Plan(robots=1, seconds=2.0, strategy="batch_optimized"))
    first = RobotReport("cartpole-00", "cartpole", 50.0, 100.0, periods=50, fresh=40, on_time=50, ages_ms=[20.0] * 50)
    second = RobotReport("cartpole-00", "cartpole", 50.0, 100.0, periods=100, fresh=80, on_time=75, ages_ms=[60.0] * 50)
    watch.take([[first], ServerReport(1, [1, 1], {"responses_served": 40})])
    watch.take([[second], ServerReport(3, [3, 3], {"responses_served": 80, "requests_superseded": 19})])
    return watch


def test_a_run_is_summed_up_over_all_its_reports(served: Watch) -> None:
    (kind,) = served.kinds()
    assert (kind.rate_hz, kind.asked_hz, kind.deadline_hits) == (40.0, 50.0, 0.75)
    assert (kind.age_p50_ms, kind.age_p95_ms) == (40.0, 60.0)
    summary = served.summary()
    assert (summary["served"], summary["superseded"], summary["refused"]) == (80, 19, 0)
    assert (summary["mean_batch_size"], summary["mean_queue_depth"]) == (2.0, 2.0)
    assert served.seconds == 2.0


def test_the_live_table_shows_a_robot_a_row(served: Watch) -> None:
    shown = text(table.live(served))
    row = next(line for line in shown.splitlines() if line.startswith("cartpole-00"))
    assert row.split() == ["cartpole-00", "up", "40", "/", "50", "60,", "60", "75.0%", "100%", "0"]
    assert "queue 3" in shown
    assert "superseded 19" in shown


def test_the_summary_shows_every_figure_whole(served: Watch) -> None:
    shown = text(table.summary([served]))
    assert "…" not in shown
    assert "40, 60" in shown


def test_the_summary_of_a_starved_fleet_is_json_that_any_program_reads(starved: Watch) -> None:
    summary = json.loads(json.dumps(starved.summary(), allow_nan=False))
    assert summary["kinds"][0]["age_p50_ms"] is None
    assert summary["kinds"][0]["deadline_hits"] == 0.0


def test_a_starved_fleet_can_be_shown_and_drawn(starved: Watch, tmp_path: Path) -> None:
    for shown in (text(table.live(starved)), text(table.summary([starved]))):
        assert "nan" not in shown
    plot.save([starved], tmp_path / "demo.png")
    assert (tmp_path / "demo.png").stat().st_size > 1000


def test_a_machine_that_is_too_busy_is_reported(starved: Watch, served: Watch) -> None:
    assert starved.behind() == 0.2
    (warning,) = table.warnings([starved, served])
    assert warning.startswith("round_robin: 20% of all control periods began late")


def test_a_summary_of_every_kind_and_strategy_fits_a_terminal_of_80_columns(served: Watch) -> None:
    robots = [RobotReport(f"ballplate-{at:02d}", "ballplate", 50.0, 100.0, ages_ms=[141.0]) for at in range(99)]
    served.take([robots])
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(table.summary([served]))
    shown = console.export_text()
    assert "…" not in shown
    assert "batch_optimized" in shown
    assert "  99 ballplate" in shown
