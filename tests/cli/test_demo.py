"""`inferential demo` without its robots; with them it is in tests/sim/test_demo.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inferential.cli import demo as demo_module
from inferential.sim.driver import RobotReport
from inferential.sim.fleet import Plan, Report, ServerReport


def test_a_comparison_that_is_interrupted_is_reported_as_far_as_it_came(
    run: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reports(plan: Plan, software: object) -> Iterator[list[Report]]:
        yield [[RobotReport("cartpole-00", "cartpole", 50.0, 100.0)], ServerReport(counts={"responses_served": 7})]
        if plan.strategy == "priority_tiered":
            raise KeyboardInterrupt

    monkeypatch.setattr(demo_module, "run", reports)
    ran = run("demo", "--compare", "round_robin,priority_tiered,slo_aware", "--json", "--out", "out")
    assert (ran.code, ran.err) == (130, "")
    result = [(one["plan"]["strategy"], one["interrupted"], one["served"]) for one in json.loads(ran.out)]
    assert result == [("round_robin", False, 7), ("priority_tiered", True, 7)]
    assert list((place / "out").iterdir()) == []


@pytest.mark.slow
def test_robots_with_keys_are_driven_as_those_without_and_recorded(run: Any, place: Path) -> None:
    pytest.importorskip("mcap")
    from inferential.recording.reading import read_recording

    options = ("--secure", "--robots", "2", "--seconds", "1", "--json", "--out", "out", "--record", "recordings")
    ran = run("demo", *options)
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["served"] > 0
    (path,) = (place / "recordings").iterdir()
    assert sum(one.end == "answered" for one in read_recording(path)) > 0
