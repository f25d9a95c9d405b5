"""Rules of other systems: each takes what its description says, and every request ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from bench import fleet_rules
from bench.fleet_rules import RULES, Job, Row, _measured, report, rules
from bench.fleet_rules.cells import CELLS, Cell

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest, base, create_scheduler
from inferential.scheduler.engine import Capacity, Engine
from inferential.sim.virtual.mirror import Mirror
from inferential.sim.virtual.world import ModelSpec


@pytest.fixture(autouse=True)
def _rules_are_strategies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers the rules for one test."""
    monkeypatch.setattr(base, "factories", dict(base.factories))
    rules.register()


LATENCY_S = (0.10, 0.11, 0.12, 0.20)
"""Three rows are the most efficient."""


@dataclass
class Robot:
    """A robot as the mirror shows it: an answer adds a second from when it runs out, or from the answer's arrival."""

    runs_out: float
    weight: float = 1.0
    ratio: float = 0.0
    period_s: float = 0.1
    horizon_steps: int = 10
    slo_s: float | None = 0.25

    def runs_out_at(self) -> float:
        return self.runs_out

    def gained_s(self, number: int, answered_at: float, until: float = float("inf")) -> float:
        begins_at = max(self.runs_out, answered_at)
        return max(min(begins_at + 1.0, until) - begins_at, 0.0)

    def wait_ratio(self, now: float) -> float:
        return self.ratio


def chosen(monkeypatch: pytest.MonkeyPatch, rule: str, robots: dict[str, Robot], asked: Sequence[str]) -> list[str]:
    """The clients of the first call at 100 s."""
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    config = SchedulingConfig(strategy=rule)
    scheduler = create_scheduler(config)
    assert isinstance(scheduler, rules.FleetRule)
    scheduler.see(Mirror(robots, {"m": ModelSpec("m", LATENCY_S)}))
    engine = Engine(config, scheduler, lambda model_id: Capacity(1, len(LATENCY_S)))
    sizes = [{"batch_size": n, "median_ms": s * 1e3, "high_ms": s * 1e3} for n, s in enumerate(LATENCY_S, 1)]
    engine.profiles.load({"m": sizes})
    for number, client in enumerate(asked):
        engine.offer(
            InferenceRequest(client, "m", b"", b"", b"", 99.0 + number / 100, 0.0, 0, 0.0, 1000.0, 1),
            99.0 + number / 100,
        )
    (batch,) = engine.work(100.0)
    return [request.client_id for request in batch.requests]


def test_full_batches_go_by_the_time_that_actions_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    robots = {name: Robot(100.0 + at) for name, at in {"a": 5, "b": 1, "c": 2, "d": 3, "e": 4}.items()}
    assert chosen(monkeypatch, "edf_full", robots, "abcde") == ["b", "c", "d", "e"]


def test_the_greedy_rule_takes_what_leaves_the_first_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    robots = {name: Robot(at) for name, at in {"a": 100.115, "b": 101, "c": 102, "d": 103}.items()}
    assert chosen(monkeypatch, "greedy_deadline", robots, "abcd") == ["a", "b"]
    robots["a"].runs_out = 99.0
    assert chosen(monkeypatch, "greedy_deadline", robots, "abcd") == ["a", "b", "c"]


def test_debt_grows_with_time_and_the_size_with_most_relief_a_second_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    robots = {name: Robot(99.0) for name in "abcd"}
    assert chosen(monkeypatch, "starvation_fair", robots, "dcba") == ["d", "c", "b"]


def test_credit_is_earned_by_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    robots = {name: Robot(99.0) for name in "abcde"} | {"e": Robot(99.0, weight=3.0)}
    assert chosen(monkeypatch, "action_deficit", robots, "abcde")[0] == "e"


def test_lookahead_serves_a_heavy_robot_alone_and_counts_half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    robots = {"a": Robot(100.0), "b": Robot(100.0), "c": Robot(100.0, weight=5.0)}
    assert chosen(monkeypatch, "lookahead", robots, "abc") == ["c"]
    robots["c"].runs_out = 100.7
    assert chosen(monkeypatch, "lookahead", robots, "abc") == ["a", "b"]


def test_robot_time_takes_the_size_with_most_of_it_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    robots = {name: Robot(100.0) for name in "abcd"}
    assert len(chosen(monkeypatch, "robot_time", robots, "abcd")) == 3


def test_the_robot_that_waits_most_of_its_time_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    robots = {name: Robot(100.0, ratio=ratio) for name, ratio in {"a": 0.1, "b": 0.9, "c": 0.5}.items()}
    assert chosen(monkeypatch, "wait_ratio", robots, "abc") == ["b", "c", "a"]


def test_the_searched_rate_keeps_two_calls_within_the_slo(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = rules.RosaRate(SchedulingConfig())
    scheduler.see(Mirror({name: Robot(100.0) for name in "abcdef"}, {"m": ModelSpec("m", LATENCY_S)}))
    assert scheduler.interval_s("a", "m") == pytest.approx(6 * 0.12 / 3 / 0.95)


def test_queues_go_in_order_of_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    robots = {name: Robot(100.0) for name in "abcde"}
    assert chosen(monkeypatch, "earliest_head", robots, "edcba") == ["e", "d", "c", "b"]
    assert chosen(monkeypatch, "one_request", robots, "edcba") == ["e"]


def test_cells_differ_in_name() -> None:
    assert len({cell.name for cell in CELLS}) == len(CELLS)


@pytest.mark.parametrize("rule", [name for name in RULES if name != "slo_aware"])
def test_every_rule_serves_robots_in_closed_and_in_open_loop(rule: str) -> None:
    cells = {cell.name: cell for cell in CELLS}
    closed = _measured(Job(cells["pi0.5 H100, one fast"], rule, seed=0, seconds=2.0))
    assert closed.starved is not None
    assert 0 <= closed.starved < 0.5
    open_loop = _measured(Job(cells["2 Hz, SLO 156, H100"], rule, seed=0, seconds=2.0))
    assert open_loop.robots is not None
    assert open_loop.robots >= 5


def test_the_verdict_names_the_best_other_rule_and_the_sums() -> None:
    cell: Cell = CELLS[0]
    rows = [
        Row(cell.name, "slo_aware", starved=0.3, starved_worst=0.6),
        Row(cell.name, "slo_aware:answers", starved=0.1, starved_worst=0.1),
        Row(cell.name, "edf_full", starved=0.2, starved_worst=0.25),
        Row(cell.name, "lookahead", starved=0.25, starved_worst=0.2),
    ]
    first, last = report.verdict([cell], rows)
    assert first == (
        "64 H50: slo_aware 30.0%, behind edf_full 20.0%; worst robot 60.0%, least of others 20.0% (lookahead)"
    )
    assert last == "sum of 1 cells: starved 0.30, best others 0.20; worst robot 0.60, best others 0.20"


def test_with_foresight_a_call_waits_for_what_comes_and_leaves_out_what_would_cost_others() -> None:
    from bench.fleet_rules.foresight import most_in_time

    assert most_in_time([0.0, 0.04, 0.08], 0.15, [0.1, 0.11], [1.0, 1.0]) == 2
    assert most_in_time([0.0, 0.03, 0.1], 0.15, [0.1, 0.11], [1.0, 1.0]) == 3
    assert most_in_time([0.0, 0.03, 0.1], 0.15, [0.1, 0.11], [1.0, 1.2]) == 2
    assert most_in_time([], 0.1, [0.1], [1.0]) == 0


def test_rows_that_are_run_anew_take_their_places_and_keep_how_long_decisions_took(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def row(cell: str, rule: str, starved: float, decision_us: float) -> dict[str, Any]:
        return asdict(Row(cell, rule, starved=starved, decision_us=decision_us))

    saved = [row("64 H50", "slo_aware", 0.2, 10.0), row("ROSA 32", "edf_full", 0.3, 11.0)]
    (tmp_path / "fleet_rules.json").write_text(json.dumps({"rows": saved}))
    monkeypatch.setattr(fleet_rules, "RESULTS", tmp_path)
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(fleet_rules, "save", lambda name, result: written.append(result))
    fleet_rules.replace_rows([row("64 H50", "slo_aware", 0.1, 99.0), row("64 H50, executed", "slo_aware", 0.05, 99.0)])
    found = [(one["cell"], one["starved"], one["decision_us"]) for one in written[0]["rows"]]
    assert found == [("64 H50", 0.1, 10.0), ("64 H50, executed", 0.05, 99.0), ("ROSA 32", 0.3, 11.0)]
