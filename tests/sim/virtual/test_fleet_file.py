"""Fleets in files: the shipped ones, and errors that name their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inferential.config.problems import ConfigError
from inferential.sim.virtual import generate
from inferential.sim.virtual.fleet_file import Fleet, example, example_names, load_fleet


@pytest.mark.parametrize("name", example_names())
def test_every_shipped_fleet_can_be_simulated(name: str) -> None:
    fleet = example(name)
    asked = {arrival.model_id for arrival in generate.arrivals(fleet, seconds=20, seed=0)}
    asked |= {robot.model_id for robot in generate.chunked_robots(fleet, seed=0)}
    assert asked == fleet.models.keys()


@pytest.mark.parametrize("name", ["mixed", "mixed-all", "shared"])
def test_the_shipped_fleets_ask_at_load_1_what_the_models_carry(name: str) -> None:
    fleet = example(name)
    row_s = {model.model_id: model.least_row_s for model in generate.models(fleet)}
    places: dict[str, float] = {}
    for robots in fleet.robots.values():
        place = fleet.models[robots.model].device or robots.model
        places[place] = places.get(place, 0.0) + robots.count / robots.period_s * row_s[robots.model]
    assert all(busy == pytest.approx(1.0, abs=0.05) for busy in places.values()), places


@pytest.mark.parametrize(
    ("models", "robots", "field"),
    [
        ({"max_batch_size": 10**9}, {}, "models.m.max_batch_size"),
        ({"replicas": 10**9}, {}, "models.m.replicas"),
        ({}, {"count": 10**9}, "robots.arm.count"),
        ({}, {"rate_hz": 1e308}, "robots.arm.rate_hz"),
        ({}, {"rate_hz": 1e-300}, "robots.arm.rate_hz"),
        ({}, {"rate_hz": None, "every_s": 1e-300}, "robots.arm.every_s"),
        ({}, {"rate_hz": None, "every_s": 1e300}, "robots.arm.every_s"),
        ({}, {"horizon_steps": 10**9}, "robots.arm.horizon_steps"),
        ({}, {"chunk_steps": 10**9}, "robots.arm.chunk_steps"),
    ],
)
def test_what_no_memory_or_day_would_do_for_is_an_error(
    tmp_path: Path, models: dict[str, Any], robots: dict[str, Any], field: str
) -> None:
    arm = {"model": "m", "kind": "chunked", "rate_hz": 50, "horizon_steps": 50, **robots}
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps({"models": {"m": {"fixed_ms": 5, **models}}, "robots": {"arm": arm}}))
    with pytest.raises(ConfigError, match=rf"{field}.*expected .*at (least|most)"):
        load_fleet(path)


def test_a_fleet_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text('[models.m]\nfixed_ms = 5\n[robots.arm]\nmodel = "m"\nrate_hz = 10\nbudget_ms = 50\n')
    assert load_fleet(path).robots["arm"].period_s == 0.1


@pytest.mark.parametrize(
    ("models", "robots", "problem"),
    [
        ({}, {"rate_hz": 10, "budget": 5}, "robots.arm.budget: unknown key; did you mean robots.arm.budget_ms?"),
        (
            {},
            {"rate_hz": 10, "kind": "chunkd"},
            "robots.arm.kind: expected periodic, irregular or chunked, got 'chunkd'",
        ),
        ({"replicas": "two"}, {"rate_hz": 10}, "models.m.replicas: expected a whole number of at least 1 and at most"),
        ({}, {"budget_ms": 5}, "robots.arm: expected either rate_hz or every_s"),
        ({}, {"rate_hz": 10}, "robots.arm: budget_ms: expected the time that an answer has"),
        ({}, {"rate_hz": 10, "budget_ms": 5, "model": "n"}, "robots.arm.model: 'n' is not among models: m"),
        ({}, {"rate_hz": 50, "kind": "chunked"}, "horizon_steps: a chunked robot needs more of them"),
        (
            {},
            {"rate_hz": 50, "kind": "chunked", "loop": "open", "horizon_steps": 9},
            "budget_ms: expected it, or ask_at_steps above 0",
        ),
        (
            {},
            {"rate_hz": 50, "kind": "chunked", "loop": "open", "horizon_steps": 9, "ask_at_steps": 5, "delay_ms": 5},
            "delay_ms: only of robots of kind chunked in closed loop",
        ),
        (
            {},
            {"rate_hz": 50, "kind": "chunked", "horizon_steps": 9, "ask_at_steps": 5, "ask": "runtime"},
            "ask_at_steps: expected none where ask is runtime",
        ),
        ({}, {"rate_hz": 50, "kind": "chunked", "horizon_steps": 9, "queue": "all"}, "queue: expected latest of"),
        ({}, {"rate_hz": 9, "budget_ms": 5, "refresh": True}, "refresh: only of robots of kind chunked in closed loop"),
        (
            {},
            {"rate_hz": 9, "budget_ms": 5, "loop": "closed"},
            "loop: expected open or none for robots of kind periodic",
        ),
        ({"profile": [{"batch_size": 1, "median_ms": 5}]}, {"rate_hz": 1, "budget_ms": 5}, "expected either fixed_ms"),
        ({"fixed_ms": 0}, {"rate_hz": 10, "budget_ms": 5}, "expected a call that takes time"),
        (
            {"fixed_ms": None, "profile": []},
            {"rate_hz": 10, "budget_ms": 5},
            "models.m.profile: expected a list of a table or more or null, got a list",
        ),
    ],
)
def test_an_error_names_its_place(tmp_path: Path, models: dict[str, Any], robots: dict[str, Any], problem: str) -> None:
    import json

    path = tmp_path / "fleet.json"
    values = {"models": {"m": {"fixed_ms": 5, **models}}, "robots": {"arm": {"model": "m", **robots}}}
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError) as error:
        load_fleet(path)
    assert problem in str(error.value)
    assert "fleet.json" in str(error.value)


@pytest.mark.parametrize(
    "text", ["models: {known: {arm: {target: 'a:b'}}}", "models: {}\ntransport: {bind: 'tcp://*:1'}", "scheduling: {}"]
)
def test_a_servers_configuration_is_recognised(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_fleet(path)
    (problem,) = error.value.problems
    assert problem.source == str(path)
    assert problem.message.startswith("it is a server's configuration, as for `inferential serve`; expected a fleet: ")


def test_a_fleet_without_robots_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("models: {m: {fixed_ms: 5}}")
    with pytest.raises(
        ConfigError,
        match=r"^robots: expected a table with a class or more, got nothing; it is what each class of robots does",
    ):
        load_fleet(path)


def test_the_error_for_an_unknown_example_lists_the_shipped_ones() -> None:
    with pytest.raises(
        ConfigError, match="--example: expected one of chunks, cluster, mixed, mixed-all, shared, got 'fleet'"
    ):
        example("fleet")


def test_a_measured_profile_is_a_models_time() -> None:
    sizes = [{"batch_size": 1, "median_ms": 10}, {"batch_size": 4, "median_ms": 16}]
    fleet = Fleet.model_validate(
        {"models": {"m": {"profile": sizes}}, "robots": {"arm": {"model": "m", "every_s": 1, "budget_ms": 50}}}
    )
    assert generate.models(fleet)[0].latency_s == pytest.approx((0.010, 0.012, 0.014, 0.016))
