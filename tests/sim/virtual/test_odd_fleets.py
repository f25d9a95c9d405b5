"""Odd fleets: whatever a file may say is simulated and planned to the end, and its shares are shares."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.sim.virtual.conftest import simulated

from inferential.sim.virtual.fleet_file import Fleet
from inferential.sim.virtual.measures import measure
from inferential.sim.virtual.planning.search import Search
from inferential.sim.virtual.starvation import play_of

STRATEGIES = ("slo_aware", "deadline_aware", "batch_optimized", "priority_tiered", "round_robin")
SECONDS = 2.0


@st.composite
def _model(draw: st.DrawFn) -> dict[str, Any]:
    model: dict[str, Any] = {
        "replicas": draw(st.sampled_from([1, 2, 16, [1, 0.01], [100.0]])),
        "spread": draw(st.sampled_from([0, 0.05, 1])),
        "max_inflight": draw(st.sampled_from([1, 3])),
        "device": draw(st.sampled_from([None, None, "gpu"])),
    }
    if draw(st.booleans()):
        model |= {
            "fixed_ms": draw(st.sampled_from([0.001, 1, 60, 500, 20_000])),
            "per_row_ms": draw(st.sampled_from([0, 10, 300])),
            "max_batch_size": draw(st.sampled_from([1, 2, 8, 64])),
        }
    else:
        sizes = draw(st.sets(st.sampled_from([1, 2, 3, 8, 40]), min_size=1, max_size=3))
        median_ms = st.sampled_from([0.01, 5, 50, 500])
        model["profile"] = [{"batch_size": size, "median_ms": draw(median_ms)} for size in sorted(sizes)]
    return model


@st.composite
def _robots(draw: st.DrawFn) -> dict[str, Any]:
    robots: dict[str, Any] = {
        "model": draw(st.sampled_from("ab")),
        "count": draw(st.sampled_from([1, 2, 20])),
        "kind": draw(st.sampled_from(["chunked", "chunked", "periodic", "irregular"])),
        "rate_hz": draw(st.sampled_from([0.1, 1, 20, 50, 200])),
        "priority": draw(st.sampled_from([0, 1, 1000])),
        "urgency": draw(st.sampled_from([0, 1])),
        "value": draw(st.sampled_from([1, 1e-9, 1000])),
        "late": draw(st.sampled_from(["serve", "refuse"])),
        "jitter_ms": draw(st.sampled_from([0, 1, 5_000])),
        "min_rate_hz": draw(st.sampled_from([0, 0.01, 1000])),
        "start_s": draw(st.sampled_from([0, 0, 0.5, 100])),
        "stop_s": draw(st.sampled_from([None, None, 0.1, 1])),
        "budget_ms": draw(st.sampled_from([0.1, 20, 300, 1e6])),
    }
    if robots["kind"] != "chunked":
        return robots
    horizon = robots["horizon_steps"] = draw(st.sampled_from([1, 1, 2, 12, 50, 1000]))
    robots["loop"] = draw(st.sampled_from(["closed", "closed", "open"]))
    asks_at = draw(st.sampled_from([0, horizon - 1]))
    if robots["loop"] == "open":
        return robots | {"ask_at_steps": asks_at}
    ask = draw(st.sampled_from(["runtime", "runtime", "threshold", "every_step"]))
    return robots | {
        "budget_ms": draw(st.sampled_from([None, robots["budget_ms"]])),
        "ask": ask,
        "ask_at_steps": 0 if ask == "runtime" else asks_at,
        "refresh": draw(st.booleans()),
        "index": draw(st.sampled_from(["time", "executed"])),
        "chunk_steps": draw(st.sampled_from([None, horizon, horizon + 40])),
        "delay_ms": draw(st.sampled_from([0, 5, 400])),
        "loss": draw(st.sampled_from([0, 0, 0.1, 0.99])),
        "slo_ms": draw(st.sampled_from([None, 0.1, 100])),
        "task_steps": draw(st.sampled_from([1, 500])),
    }


@st.composite
def _fleets(draw: st.DrawFn) -> Fleet:
    classes = draw(st.lists(_robots(), min_size=1, max_size=3))
    robots = {f"class {number}": one for number, one in enumerate(classes)}
    return Fleet.model_validate({"models": {"a": draw(_model()), "b": draw(_model())}, "robots": robots})


@given(fleet=_fleets(), strategy=st.sampled_from(STRATEGIES), profiled=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_a_file_may_say_is_simulated_to_the_end(fleet: Fleet, strategy: str, profiled: bool) -> None:
    run = simulated(fleet, strategy, SECONDS, profiled=profiled)
    json.dumps(measure(run).as_dict(), allow_nan=False)
    play = play_of(run)
    if play is not None:
        assert 0 <= play.starved <= play.starved_worst <= 1
        assert 0 <= play.longest_gap_s <= SECONDS + max(robots.step_s for robots in fleet.robots.values())
        assert all(0 <= share <= 1 + 1e-9 for share in (play.in_slo, play.fairness) if share is not None)


@given(fleet=_fleets(), devices=st.integers(1, 2))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_a_file_may_say_is_planned_to_the_end(fleet: Fleet, devices: int) -> None:
    search = Search(fleet, "slo_aware", seconds=1.0, seed=0)
    if any(one.count < one.period_s for one in fleet.robots.values()):
        with pytest.raises(ValueError, match="ask once in"):
            search.best(devices)
        return
    plan = search.best(devices)
    json.dumps(plan.as_dict(), allow_nan=False)
    assert all(0 <= one.worst <= one.with_action <= 1 for one in plan.robots.values())


def _chunked(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "kind": "chunked", "rate_hz": 50, "horizon_steps": 50, **fields}


POLICY = {"fixed_ms": 65.4, "per_row_ms": 10.57, "max_batch_size": 8}


def _starved(model: dict[str, Any], **classes: dict[str, Any]) -> dict[str, float]:
    run = simulated(Fleet.model_validate({"models": {"m": model}, "robots": classes}), seconds=6.0)
    found: dict[str, list[float]] = {}
    for one in run.played:
        found.setdefault(one.robot.robot_class, []).append(1 - one.executed / one.steps)
    return {name: max(shares) for name, shares in found.items()}


def test_one_robot_alone_starves_in_no_step() -> None:
    assert _starved(POLICY, arm=_chunked()) == {"arm": 0.0}


def test_a_weight_of_a_thousandth_beside_one_leaves_a_robot_its_turns() -> None:
    """Robots of the highest priority ask for more than there is; one of the lowest is served all the same."""
    model = {**POLICY, "max_batch_size": 2}
    found = _starved(model, many=_chunked(count=24, priority=0, urgency=1), one=_chunked(priority=1000))
    assert found["one"] < 1.0
    assert found["many"] < found["one"]


@pytest.mark.parametrize("replicas", [1, 16])
@pytest.mark.parametrize(("index", "most"), [("executed", 0.0), ("time", 1.0)])
def test_chunks_of_one_step_are_played_where_steps_count_as_executed(replicas: int, index: str, most: float) -> None:
    """By time such a chunk is over when it arrives: its action is that of the step in which it was asked for."""
    model = {"fixed_ms": 2, "per_row_ms": 0.1, "max_batch_size": 8, "replicas": replicas}
    found = _starved(model, arm=_chunked(rate_hz=10, horizon_steps=1, count=4, index=index))
    assert found["arm"] == pytest.approx(most, abs=0.02)
