"""The main job end to end: robots, sockets, server and policies in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from inferential.sim.fleet import Plan, run
from inferential.sim.watch import Watch

CLI = [sys.executable, "-m", "inferential.cli.main"]


def demo(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLI, "demo", *args], capture_output=True, text=True, timeout=90, check=False)


def test_a_fleet_is_kept_up_over_real_sockets_and_leaves_no_process_behind() -> None:
    watch = Watch(Plan(robots=4, seconds=3.0, load=0.5))
    for told in run(watch.plan):
        watch.take(told)
    assert len(watch.robots) == 4
    assert all(robot.up and robot.falls == 0 for robot in watch.robots.values())
    assert all(robot.periods == 3 * robot.control_rate_hz - 1 for robot in watch.robots.values())
    assert all(robot.fresh > robot.periods / 2 for robot in watch.robots.values())
    assert watch.count("responses_served") > 300
    assert watch.refused() == 0
    names = [child.cmdline() for child in psutil.Process().children(recursive=True)]
    assert not [name for name in names if "spawn_main" in " ".join(name)]


def test_a_run_that_is_given_up_leaves_no_process_behind() -> None:
    running = run(Plan(robots=2, seconds=60.0))
    next(running)
    running.close()  # type: ignore[attr-defined]
    names = [child.cmdline() for child in psutil.Process().children(recursive=True)]
    assert not [name for name in names if "spawn_main" in " ".join(name)]


def test_the_command_saves_a_plot_a_screen_and_a_summary(tmp_path: Path) -> None:
    done = demo("--robots", "2", "--seconds", "2", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "2 robots, load 0.7x" in done.stdout
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "demo.svg").read_text()
    (summary,) = json.loads((tmp_path / "summary.json").read_text())
    assert summary["served"] > 50


def test_strategies_are_compared_side_by_side_and_told_as_json(tmp_path: Path) -> None:
    done = demo(
        "--robots", "2", "--seconds", "1", "--compare", "round_robin,priority_tiered", "--json", "--out", str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)
    assert [told["plan"]["strategy"] for told in runs] == ["round_robin", "priority_tiered"]
    assert all(kind["up_at_end"] == kind["robots"] for told in runs for kind in told["kinds"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--strategy", "best"], "Unknown scheduler strategy 'best'"),
        (["--robots", "0"], "robots"),
        (["--load", "-1"], "load"),
    ],
)
def test_a_wrong_option_is_one_clear_line(args: list[str], message: str) -> None:
    done = demo(*args)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
