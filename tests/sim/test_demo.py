"""The main job end to end: robots, sockets, server and policies in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from inferential.cli.demo import TaskName
from inferential.cli.main import main
from inferential.sim.fleet import Plan, run
from inferential.sim.tasks import TASKS
from inferential.sim.watch import Watch

CLI = [sys.executable, "-m", "inferential.cli.main"]


def children(pid: int | None = None) -> list[psutil.Process]:
    """The server and the robots of a run, without the resource tracker of Python."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def wait_for_children(parent: subprocess.Popen[str]) -> list[psutil.Process]:
    while not (found := children(parent.pid)):
        assert parent.poll() is None
    return found


def demo(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLI, "demo", *args], capture_output=True, text=True, timeout=90, check=False)


def kept_up(plan: Plan) -> Watch:
    """A run in which no robot fell and most actions were in time; on a busy machine some fall at times."""
    for _ in range(5):
        watch = Watch(plan)
        for reports in run(plan):
            watch.take(reports)
        assert children() == []
        assert len(watch.robots) == plan.robots
        assert watch.refused() == 0
        robots = watch.robots.values()
        if all(robot.up and robot.falls == 0 and robot.fresh > robot.periods / 2 for robot in robots):
            return watch
    raise AssertionError(f"robots fell each time: {watch.summary()}")


def test_a_fleet_is_kept_up_over_real_sockets_and_leaves_no_process_behind() -> None:
    watch = kept_up(Plan(robots=4, seconds=3.0, load=0.5))
    assert all(robot.periods == 3 * robot.control_rate_hz - 1 for robot in watch.robots.values())
    assert watch.count("responses_served") > 100


def test_the_command_knows_every_task() -> None:
    assert [name.value for name in TaskName] == list(TASKS)


def test_hoppers_are_kept_up_over_real_sockets() -> None:
    watch = kept_up(Plan(task="hopper", robots=3, seconds=3.0, load=0.5))
    assert {robot.kind for robot in watch.robots.values()} == {"hopper"}
    summary = watch.summary()
    assert summary["plan"]["task"] == "hopper"
    assert 0 < summary["age_p50_ms"] <= summary["age_p95_ms"]


def test_a_cancelled_run_leaves_no_process_behind() -> None:
    running = run(Plan(robots=2, seconds=60.0))
    next(running)
    running.close()
    assert children() == []


def test_a_process_that_dies_ends_the_run_and_the_other_processes() -> None:
    running = run(Plan(robots=2, seconds=60.0))
    next(running)
    children()[-1].kill()
    with pytest.raises(RuntimeError, match="died"):
        for _ in running:
            pass
    assert children() == []


@pytest.mark.parametrize("when", ["at the start", "while it runs"])
def test_ctrl_c_ends_all_processes(when: str, tmp_path: Path) -> None:
    command = [*CLI, "demo", "--robots", "2", "--seconds", "60", "--out", str(tmp_path), "--plain"]
    parent = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    started = wait_for_children(parent)
    if when == "while it runs":
        assert parent.stdout is not None
        parent.stdout.readline()
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    printed, errors = parent.communicate(timeout=60)
    assert parent.returncode == 130
    assert errors == "" or when == "at the start"
    assert ("interrupted after" in printed) == (when == "while it runs")
    assert list(tmp_path.iterdir()) == []
    assert not psutil.wait_procs(started, timeout=60)[1]


def test_no_process_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    command = [*CLI, "demo", "--robots", "2", "--seconds", "60", "--out", str(tmp_path), "--plain"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        started = wait_for_children(parent)
        parent.kill()
    assert not psutil.wait_procs(started, timeout=60)[1]


def test_the_command_saves_a_plot_a_screen_and_a_summary(tmp_path: Path) -> None:
    done = demo("--robots", "2", "--seconds", "2", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "2 robots, load 0.7x" in done.stdout
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "demo.svg").read_text()
    (summary,) = json.loads((tmp_path / "summary.json").read_text())
    assert summary["served"] > 0


def test_strategies_are_compared_side_by_side_and_printed_as_json(tmp_path: Path) -> None:
    done = demo(
        *("--robots", "2", "--seconds", "1", "--compare", "round_robin,priority_tiered"),
        *("--http", "0", "--json", "--out", str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)
    assert [one["plan"]["strategy"] for one in runs] == ["round_robin", "priority_tiered"]
    # Where the machine is busy, some fall.
    assert all(0 <= kind["up_at_end"] <= kind["robots"] == 1 for one in runs for kind in one["kinds"])


def test_the_live_page_shows_the_fleet_meanwhile(tmp_path: Path) -> None:
    command = [*CLI, "demo", "--robots", "2", "--seconds", "600", "--http", "0", "--out", str(tmp_path), "--plain"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            match = re.fullmatch(r"page on (http://127\.0\.0\.1:\d+)\n", process.stdout.readline())
            assert match is not None
            with urllib.request.urlopen(match[1]) as page:
                assert b"<title>Inferential" in page.read()
            robots: dict[str, int] = {}
            while len(robots) < 2 or min(robots.values()) < 5:
                with urllib.request.urlopen(f"{match[1]}/api/status") as response:
                    clients = json.load(response)["clients"]
                robots = {one["client_id"]: sum(use["answered"] for use in one["models"]) for one in clients}
            assert set(robots) == {"cartpole-00", "ballplate-01"}
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
            assert (process.returncode, errors) == (130, "")
        finally:
            process.kill()


def test_a_port_of_the_page_that_is_taken_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = demo("--robots", "1", "--http", str(port), "--out", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == f"error: http: cannot listen on 127.0.0.1:{port}: Address already in use\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--http", "here"], "--http: expected PORT or HOST:PORT, got 'here'"),
        (["--http", "70000"], "http.port"),
        (["--strategy", "best"], "Unknown scheduler strategy 'best'"),
        (["--robots", "0"], "robots"),
        (["--load", "-1"], "load"),
        (["--seed", "-1"], "seed"),
        (["--compare", ","], "--compare: expected strategies"),
        (["--out", f"{__file__}/out"], "--out: cannot write"),
    ],
)
def test_a_wrong_option_is_one_clear_line(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", *args])
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors
