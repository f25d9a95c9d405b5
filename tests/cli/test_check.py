"""`inferential check`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

FLEET = """\
scheduling:
  strategy: round_robin
  max_queue_size: 1000
models:
  known:
    arm:
      target: policies:Doubler
clients:
  known:
    - {id: robot-1, model: arm, latency_budget_ms: 20}
"""


def test_every_value_other_than_the_default_is_explained(run: Any, place: Path, monkeypatch: Any) -> None:
    (place / "fleet.yaml").write_text(FLEET)
    monkeypatch.setenv("INFERENTIAL_METRICS__ENABLED", "no")
    ran = run("check", "fleet.yaml")
    assert ran.code == 0
    first, *lines = ran.out.splitlines()
    assert first == "fleet.yaml: valid, 6 values other than the defaults"
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    assert [row[:3] for row in cells] == [
        ["scheduling.strategy", "round_robin", "fleet.yaml:2"],
        ["models.known.arm.target", "policies:Doubler", "fleet.yaml:7"],
        ["clients.known[0].id", "robot-1", "fleet.yaml:10"],
        ["clients.known[0].model", "arm", "fleet.yaml:10"],
        ["clients.known[0].latency_budget_ms", "20.0 ms", "fleet.yaml:10"],
        ["metrics.enabled", "false", "INFERENTIAL_METRICS__ENABLED"],
    ]
    assert cells[5][3] == "Off: nothing is kept and no callback is called."


def test_json_has_the_same(run: Any, place: Path) -> None:
    (place / "fleet.json").write_text('{"transport": {\n"bind": "tcp://*:1"}}')
    ran = run("check", "fleet.json", "--json")
    assert ran.code == 0
    (value,) = ran.json["values"]
    assert {name: value[name] for name in ("path", "value", "default", "source", "live", "unit")} == {
        "path": "transport.bind",
        "value": "tcp://*:1",
        "default": "tcp://*:5555",
        "source": "fleet.json:2",
        "live": False,
        "unit": "",
    }
    assert ran.json["valid"] is True
    assert ran.json["problems"] == []


def test_without_a_file_the_environment_is_checked(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("check").out == "environment: valid, 0 values other than the defaults\n"
    monkeypatch.setenv("INFERENTIAL_SCHEDULNG", "{}")
    ran = run("check")
    assert ran.code == 1
    assert ran.out == "schedulng: unknown key; did you mean INFERENTIAL_SCHEDULING? (INFERENTIAL_SCHEDULNG)\n"


def test_problems_are_told_a_line_each_with_exit_code_1(run: Any, place: Path) -> None:
    (place / "f.yaml").write_text("scheduling:\n  stratgy: x\n  max_retries: -1\n")
    ran = run("check", "f.yaml")
    assert ran.code == 1
    assert sorted(ran.out.splitlines()) == [
        "scheduling.max_retries: expected a whole number of at least 0, got -1 (f.yaml:3)",
        "scheduling.stratgy: unknown key; did you mean scheduling.strategy? (f.yaml:2)",
    ]
    told = run("check", "--json", "f.yaml")
    assert told.code == 1
    assert told.json["valid"] is False
    assert [problem["source"] for problem in told.json["problems"]] == ["f.yaml:3", "f.yaml:2"]
    assert told.json["values"] == []


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("none.yaml", None, "none.yaml: cannot be read: No such file or directory\n"),
        ("f.toml", "x = \n", "f.toml:1: not valid TOML: Invalid value\n"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_problem(run: Any, place: Path, name: str, text: Any, problem: str) -> None:
    if text is not None:
        (place / name).write_text(text)
    ran = run("check", name)
    assert (ran.code, ran.out) == (1, problem)


def test_an_unknown_strategy_is_a_problem(run: Any, place: Path) -> None:
    (place / "f.yaml").write_text("scheduling: {strategy: round_robbin}\n")
    ran = run("check", "f.yaml")
    assert ran.code == 1
    assert ran.out == (
        "scheduling.strategy: expected one of batch_optimized, deadline_aware, model_deadline, priority_tiered, "
        "round_robin, slo_aware, got 'round_robbin'; did you mean round_robin? (f.yaml:1)\n"
    )


def test_a_fleet_to_simulate_is_told_to_be_one(run: Any, place: Path) -> None:
    (place / "f.yaml").write_text("robots: {arm: {model: m, rate_hz: 5, budget_ms: 5}}\n")
    assert run("check", "f.yaml").out == (
        "robots: unknown key; a file with robots is a fleet for `inferential simulate`, no server's configuration "
        "(f.yaml:1)\n"
    )


def test_import_finds_what_is_wrong_with_the_models(run: Any, place: Path) -> None:
    text = "models:\n  known:\n    arm: {target: 'policies:Doubler'}\n    hand:\n      target: policies:Dubler\n"
    (place / "f.yaml").write_text(text)
    assert run("check", "f.yaml").code == 0
    ran = run("check", "--import", "f.yaml")
    assert ran.code == 1
    assert ran.out == (
        "models.known.hand.target: model 'hand', target 'policies:Dubler': policies has no 'Dubler'; "
        "did you mean 'Doubler'? (f.yaml:5)\n"
    )


def test_a_strategy_that_a_model_registers_is_known_after_import(run_apart: Any, place: Path) -> None:
    (place / "mine.py").write_text(
        "from inferential.scheduler import RoundRobinScheduler, register_scheduler\n"
        "register_scheduler('mine')(RoundRobinScheduler)\n"
        "def model(observation): return observation\n"
    )
    (place / "f.yaml").write_text("scheduling: {strategy: mine}\nmodels: {known: {m: {target: 'mine:model'}}}\n")
    assert run_apart("check", "f.yaml").code == 1
    assert run_apart("check", "f.yaml", "--import").code == 0
