"""`inferential plan`: a fleet on devices, for people and for scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FLEET = (
    "models: {policy: {fixed_ms: 60, per_row_ms: 10, max_batch_size: 8}}\n"
    "robots: {arm: {model: policy, count: 4, kind: chunked, rate_hz: 20, horizon_steps: 20, delay_ms: 2}}\n"
)


def test_a_plan_says_where_models_run_and_what_robots_get(run: Any, place: Path) -> None:
    (place / "fleet.yaml").write_text(FLEET)
    ran = run("plan", "fleet.yaml", "--devices", "2", "--seconds", "1", "--out", "out")
    assert ran.code == 0, ran.err
    assert "with an" in ran.out
    assert all(len(line) <= 80 for line in ran.out.splitlines() if "saved" not in line and "of this mix" not in line)
    assert "2 devices carry" in ran.out
    saved = json.loads((place / "out" / "plan.json").read_text())
    assert saved["models"]["policy"]["replicas"] == 2
    assert (place / "out" / "plan.svg").stat().st_size > 1000


def test_json_is_the_plan_alone(run: Any, place: Path) -> None:
    (place / "fleet.yaml").write_text(FLEET)
    found = run("plan", "fleet.yaml", "--devices", "1", "--seconds", "1", "--json").json
    assert found["devices"] == 1
    assert found["robots"]["arm"].keys() >= {"rate_hz", "serve_interval_ms", "execution_horizon", "with_action"}
    assert [one["devices"] for one in found["robots_carried"]] == [1]


def test_mistakes_are_named(run: Any, place: Path) -> None:
    for arguments, text in (
        ((), "expected a file, or --example"),
        (("missing.yaml",), "missing.yaml"),
        (("--example", "chunks", "--devices", "0"), "devices"),
        (("--example", "chunks", "--strategy", "none"), "none"),
    ):
        ran = run("plan", *arguments)
        assert ran.code == 2, (arguments, ran.out, ran.err)
        assert text in ran.err
