"""`inferential simulate`: a fleet in virtual time, for people and for scripts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest


def test_strategies_are_compared_by_their_share_of_the_bound(run: Any) -> None:
    ran = run(
        "simulate", "--example", "shared", "--seconds", "3", "--compare", "slo_aware,round_robin", "--load", "1.5"
    )
    assert ran.code == 0, ran.err
    assert "slo_aware" in ran.out
    assert "round_robin" in ran.out
    assert re.search(r"^bound: no schedule answers more than (\d+) of (\d+) in time$", ran.out, re.MULTILINE)
    assert "slo_aware: " in ran.out
    assert "mean rows of a call: " in ran.out


@pytest.mark.parametrize("example", ["mixed", "chunks"])
def test_its_tables_fit_a_terminal_of_80_columns(run: Any, example: str) -> None:
    ran = run("simulate", "--example", example, "--seconds", "1", "--strategy", "deadline_aware", "--load", "2")
    assert max(map(len, ran.out.splitlines())) <= 80
    assert "\u2026" not in ran.out


def test_json_is_the_whole_summary_and_the_same_each_time(run: Any) -> None:
    first, second = (run("simulate", "--example", "mixed", "--seconds", "2", "--json").json for _ in range(2))
    for summary in (first, second):
        del summary["decision_us"]
    assert first == second
    assert 0 < first["overall"]["in_time"] <= first["bound"]
    assert first["classes"].keys() == {"arm", "humanoid", "planner"}


def test_a_fleet_of_ones_own_and_its_trace(run: Any, place: Path) -> None:
    (place / "fleet.yaml").write_text(
        "models: {m: {fixed_ms: 5}}\nrobots: {arm: {model: m, count: 3, rate_hz: 20, budget_ms: 40}}\n"
    )
    written = run("simulate", "fleet.yaml", "--seconds", "2", "--trace-out", "trace.jsonl", "--json").json
    again = run("simulate", "fleet.yaml", "--seconds", "2", "--trace-in", "trace.jsonl", "--json").json
    assert again["overall"]["in_time"] == written["overall"]["in_time"] > 100


def test_robots_in_closed_loop_are_measured_by_their_steps(run: Any, place: Path) -> None:
    (place / "fleet.yaml").write_text(
        "models: {m: {fixed_ms: 50, per_row_ms: 5, max_batch_size: 4}}\n"
        "robots: {arm: {model: m, count: 6, kind: chunked, rate_hz: 20, horizon_steps: 10, delay_ms: 2}}\n"
    )
    ran = run("simulate", "fleet.yaml", "--seconds", "5", "--strategy", "round_robin")
    assert ran.code == 0, ran.err
    assert "6 robots in closed loop" in ran.out
    assert "starved" in ran.out
    found = run(
        *("simulate", "fleet.yaml", "--seconds", "5", "--strategy", "round_robin", "--json"),
        *("--out", "out", "--trace-out", "trace.jsonl"),
    ).json
    assert found["bound"] is None
    play = found["closed_loop"]["overall"]
    assert 0 <= play["starved"] <= play["starved_worst"] < 1
    assert play["executed_per_s"] > 60
    assert found["closed_loop"]["classes"].keys() == {"arm"}
    assert (place / "out" / "starved.png").read_bytes().startswith(b"\x89PNG")
    assert len((place / "trace.jsonl").read_text().splitlines()) == found["overall"]["offered"]


def test_a_class_of_robots_may_have_any_name(run: Any, place: Path) -> None:
    (place / "fleet.yaml").write_text(
        'models: {m: {fixed_ms: 5}}\nrobots: {"[/x]\\e[2J": {model: m, rate_hz: 20, budget_ms: 40}}\n'
    )
    assert r"1 [/x]\x1b[2J" in run("simulate", "fleet.yaml", "--seconds", "1").out


def test_pictures_and_summary_are_saved(run: Any, place: Path) -> None:
    ran = run("simulate", "--seconds", "2", "--out", "out")
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in (place / "out").iterdir()) == [
        "ages.png",
        "ages.svg",
        "summary.json",
        "timeline-slo_aware.png",
        "timeline-slo_aware.svg",
    ]


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["none.yaml"], "none.yaml: cannot be read"),
        (["--example", "none"], "--example: expected one of chunks, cluster, mixed, mixed-all, shared, got 'none'\n"),
        (["fleet.yaml", "--example", "mixed"], "FLEET: a file and --example were given"),
        (["--strategy", "none"], "--strategy: Unknown scheduler strategy 'none'"),
        (["--compare", "slo_aware,none"], "--compare: Unknown scheduler strategy 'none'"),
        (["--compare", ","], "--compare: expected strategies separated by commas"),
        (["--trace-in", "none.jsonl"], "none.jsonl: cannot be read"),
        (["--trace-out", "no/such/place.jsonl"], "--trace-out: cannot write to"),
    ],
)
def test_an_error_is_one_line(run: Any, args: list[str], problem: str) -> None:
    ran = run("simulate", *args, "--seconds", "1")
    assert ran.code == 2
    assert problem in ran.err
    assert len(ran.err.strip().splitlines()) == 1


def test_a_trace_of_other_models_is_an_error(run: Any, place: Path) -> None:
    (place / "trace.jsonl").write_text('{"at": 0, "client": "a", "model": "m", "deadline_ms": 5}\n')
    ran = run("simulate", "--trace-in", "trace.jsonl")
    assert "--trace-in: model 'm' is not among those of the simulation: control, chunks, vlm" in ran.err
