"""Plans: every model is placed, minimum rates come first, and more devices carry more robots."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sim.virtual.conftest import simulated

from inferential.scheduler.time.planned_rates import LEAST_RATE_HZ
from inferential.sim.virtual.fleet_file import Fleet, example
from inferential.sim.virtual.planning import search as search_module
from inferential.sim.virtual.planning.placement import MOST_MODELS, placements, rates
from inferential.sim.virtual.planning.search import Plan, Search
from inferential.sim.virtual.starvation import play_by_class

ARM = {"model": "policy", "kind": "chunked", "rate_hz": 20, "horizon_steps": 20, "delay_ms": 2}
WATCHER = {"model": "safety", "rate_hz": 2, "budget_ms": 250}
POLICY = {"fixed_ms": 60, "per_row_ms": 10, "max_batch_size": 8}
SAFETY = {"fixed_ms": 20, "per_row_ms": 5, "max_batch_size": 8}


def fleet(**robots: dict[str, Any]) -> Fleet:
    asked = {one["model"] for one in robots.values()}
    models = {name: model for name, model in (("policy", POLICY), ("safety", SAFETY)) if name in asked}
    return Fleet.model_validate({"models": models, "robots": robots})


def planned(described: Fleet, devices: int, load: float = 1.0, seconds: float = 3.0) -> Plan:
    return Search(described, "slo_aware", seconds=seconds, seed=0).best(devices, load)


models = st.builds(
    lambda fixed, row, most: {"fixed_ms": fixed, "per_row_ms": row, "max_batch_size": most},
    st.floats(0.1, 500),
    st.floats(0, 100),
    st.integers(1, 8),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(models, min_size=1, max_size=4), st.integers(1, 5), st.floats(0.1, 4))
def test_every_placement_holds_each_model_once_on_the_devices_there_are(
    described: list[dict[str, Any]], devices: int, load: float
) -> None:
    names = [f"m{number}" for number in range(len(described))]
    robots = {name: {**(ARM if number % 2 else WATCHER), "model": name} for number, name in enumerate(names)}
    found = placements(
        Fleet.model_validate({"models": dict(zip(names, described, strict=True)), "robots": robots}), devices, load
    )
    assert found
    estimates = [one.estimate for one in found]
    assert estimates == pytest.approx(sorted(estimates, reverse=True))
    for one in found:
        assert sorted(model for group in one.groups for model in group.models) == names
        assert sum(group.devices for group in one.groups) <= devices
        assert all(
            1 <= one.batch_size(name) <= model["max_batch_size"] for name, model in zip(names, described, strict=True)
        )


VALUED = {**WATCHER, "count": 12, "value": 20}
FAST = {"model": "policy", "kind": "chunked", "rate_hz": 50, "horizon_steps": 25, "delay_ms": 5}


@pytest.mark.parametrize(
    ("devices", "robots"),
    [
        (1, {"arm": {**FAST, "count": 24}}),
        (2, {"arm": {**FAST, "count": 64, "horizon_steps": 50}}),
        (4, {"arm": {**FAST, "count": 96, "index": "time"}}),
        (4, {"arm": {**FAST, "count": 128}}),
        (2, {"arm": {**FAST, "count": 24, "value": 2}, "slow": {**ARM, "count": 48}}),
        (3, {"arm": {**FAST, "count": 100}, "watcher": {**WATCHER, "count": 6}}),
    ],
)
def test_what_is_estimated_of_robots_with_chunks_is_about_what_is_simulated(
    devices: int, robots: dict[str, dict[str, Any]]
) -> None:
    (placed, *_) = placements(fleet(**robots), devices)
    described = fleet(**robots)
    for name, model in described.models.items():
        model.replicas = placed.group(name).devices
    played = play_by_class(simulated(described, seconds=6.0))
    gained = sum(
        one.count * one.value * ((1 - played[name].starved) / one.step_s if name in played else 1 / one.period_s)
        for name, one in described.robots.items()
    )
    assert placed.estimate == pytest.approx(gained, rel=0.15)  # a tenth of the time is planned to be idle


@pytest.mark.parametrize(
    ("described", "load"),
    [
        *((example("shared"), load) for load in (0.5, 1.0, 1.5, 2.0, 3.0)),
        *((fleet(arm={**FAST, "horizon_steps": 50, "count": 12}, watcher=VALUED), load) for load in (0.5, 1.0, 1.5)),
    ],
)
def test_what_is_estimated_of_models_that_share_a_device_is_about_what_its_best_plan_gains(
    described: Fleet, load: float
) -> None:
    (placed, *_) = placements(described, 1, load)
    assert placed.estimate == pytest.approx(planned(described, 1, load, seconds=6.0).value_per_s, rel=0.15)


@pytest.mark.parametrize("load", [1.5, 3.0])
def test_beyond_capacity_no_class_of_robots_is_planned_to_go_without_answers(load: float) -> None:
    described = example("shared")
    call_s = {"control": 0.018, "chunks": 0.07}
    found = rates(described.robots, {name: one / 8 for name, one in call_s.items()}, call_s, 1, load)
    assert min(found.values()) >= LEAST_RATE_HZ


@pytest.mark.parametrize("watchers", [0, 1])
def test_devices_that_are_left_over_are_used(watchers: int) -> None:
    others = {"watcher": {**WATCHER, "count": 1}} if watchers else {}
    (placed, *_) = placements(fleet(arm={**ARM, "count": 4}, **others), 6)
    assert sum(group.devices for group in placed.groups) == 6


def test_models_share_the_only_device_and_get_their_own_where_there_are_two() -> None:
    described = fleet(arm={**ARM, "count": 2}, watcher={**WATCHER, "count": 2})
    one = planned(described, 1)
    assert (one.models["policy"].shares_with, one.models["safety"].devices) == (("safety",), (0,))
    two = planned(described, 2)
    assert not two.models["policy"].shares_with
    assert {two.models["policy"].devices, two.models["safety"].devices} == {(0,), (1,)}


def test_beyond_capacity_minimum_rates_are_kept_before_value_counts() -> None:
    described = fleet(
        arm={**ARM, "count": 56, "value": 5}, watcher={**WATCHER, "count": 10, "value": 0.01, "min_rate_hz": 1.5}
    )
    found = planned(described, 1)
    assert found.robots["watcher"].keeps_min_rate
    assert found.robots["arm"].with_action < 0.97


def test_rates_are_planned_where_they_gain_something() -> None:
    described = fleet(watcher={**WATCHER, "count": 60, "rate_hz": 20})
    found = planned(described, 1).robots["watcher"]
    assert found.serve_interval_ms > 50
    assert found.rate_hz == pytest.approx(1e3 / found.serve_interval_ms, rel=0.1)


def test_more_devices_carry_more_robots() -> None:
    search = Search(fleet(arm={**ARM, "count": 4}), "slo_aware", seconds=2.0, seed=0)
    carried = [search.most_robots(devices, 0.95) for devices in (1, 2)]
    assert 0 < carried[0] < carried[1]


def test_a_plan_is_the_same_each_time() -> None:
    described = example("chunks")
    first, second = (Search(described, "round_robin", seconds=1.0, seed=1).best(2, 0.1) for _ in range(2))
    assert first == second


def test_a_device_runs_one_call_at_a_time_however_many_a_replica_may_run_elsewhere() -> None:
    described = fleet(arm=ARM | {"count": 16})
    at_once = described.model_copy(
        update={"models": {name: one.model_copy(update={"max_inflight": 8}) for name, one in described.models.items()}}
    )
    assert planned(at_once, 1) == planned(described, 1)


def test_a_simulation_in_which_robots_hardly_ask_is_refused_by_their_class() -> None:
    with pytest.raises(ValueError, match=r"robots\.arm: 2 of them ask once in 1000 s in all, .* takes 3 s"):
        planned(fleet(arm=ARM | {"count": 2, "rate_hz": 0.01}), 1)


def test_an_observation_that_can_still_be_answered_in_time_is_not_counted_as_lost() -> None:
    """Both of them come within the last second, and an answer takes longer than the rest of the run."""
    models = {"policy": {"fixed_ms": 600}}
    vlm = {"model": "policy", "count": 2, "every_s": 1.0, "start_s": 0.4, "budget_ms": 3_000}
    described = Fleet.model_validate({"models": models, "robots": {"vlm": vlm}})
    plan = Search(described, "round_robin", seconds=1.0, seed=0).best(4)
    assert plan.robots["vlm"].rate_hz == 0.0
    assert plan.robots["vlm"].with_action == 1.0


def test_too_many_models_are_refused_by_number() -> None:
    names = [f"m{number}" for number in range(MOST_MODELS + 1)]
    described = Fleet.model_validate(
        {"models": dict.fromkeys(names, POLICY), "robots": {"arm": {**ARM, "model": names[0]}}}
    )
    with pytest.raises(ValueError, match=r"models: expected at most 10, got 11"):
        placements(described, 2)


def test_robots_are_doubled_until_a_simulation_would_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that takes no time carries as many as anyone could simulate."""
    monkeypatch.setattr(search_module, "MOST_EVENTS", 2_000)
    described = Fleet.model_validate({"models": {"policy": {"fixed_ms": 0.01}}, "robots": {"arm": {**ARM, "count": 5}}})
    search = Search(described, "round_robin", seconds=1.0, seed=0)
    assert search.most_robots(1, 0.95) == 80
    assert search.is_limit(80)
    assert not search.is_limit(40)


@pytest.mark.parametrize(("arm", "most"), [({"rate_hz": 1e-5}, 100), ({"horizon_steps": 100_000}, 2)])
def test_robots_that_hardly_ever_ask_or_have_endless_chunks_are_not_doubled_without_end(
    monkeypatch: pytest.MonkeyPatch, arm: dict[str, Any], most: int
) -> None:
    monkeypatch.setattr(search_module, "MOST_EVENTS", 2_000)
    search = Search(fleet(arm=ARM | arm), "slo_aware", seconds=1.0, seed=0)
    carried = search.most_robots(1, 0.95)
    assert carried <= most
    assert search.is_limit(carried) or carried == 0
