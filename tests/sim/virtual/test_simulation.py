"""The simulation: what happens in it is what would, the same each time, and every request ends once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sim.virtual.conftest import simulated

from inferential.scheduler import scheduler_names
from inferential.sim.virtual import generate
from inferential.sim.virtual.fleet_file import Fleet, example
from inferential.sim.virtual.measures import measure
from inferential.sim.virtual.simulation import simulate
from inferential.sim.virtual.world import Arrival, ModelSpec

MODEL = ModelSpec("m", (0.010, 0.012))


def ask(at: float, client: str, time_s: float = 1.0, **fields: object) -> Arrival:
    return Arrival(at, client, "m", "robot", at + time_s, **fields)  # type: ignore[arg-type]


def test_a_call_takes_its_time_and_the_next_waits_for_it() -> None:
    run = simulate([MODEL], [ask(0.1, "a"), ask(0.105, "b"), ask(0.106, "c")], "deadline_aware", seconds=1, seed=0)
    assert [(call.started_at, call.ended_at, call.rows) for call in run.calls] == [
        (pytest.approx(0.100), pytest.approx(0.110), 1),
        (pytest.approx(0.110), pytest.approx(0.122), 2),
    ]
    assert [outcome.end for outcome in run.outcomes] == ["answered"] * 3
    assert run.outcomes[1].ended_at - run.outcomes[1].arrival.at == pytest.approx(0.017)


def test_what_is_not_over_at_the_end_is_open() -> None:
    run = simulate([MODEL], [ask(0.1, "a"), ask(0.995, "b"), ask(2.0, "c")], "round_robin", seconds=1, seed=0)
    assert [outcome.end for outcome in run.outcomes] == ["answered", "open"]


def test_a_faster_replica_takes_less() -> None:
    model = ModelSpec("m", (0.010,), speeds=(0.5, 2.0))
    run = simulate([model], [ask(0.1, "a"), ask(0.1, "b")], "slo_aware", seconds=1, seed=0)
    assert sorted(call.ended_at - call.started_at for call in run.calls) == pytest.approx([0.005, 0.020])


def test_a_newer_observation_supersedes_and_a_late_one_is_refused_where_it_wants_that() -> None:
    arrivals = [
        ask(0.1, "a"),
        ask(0.101, "b"),
        ask(0.102, "b"),
        *(ask(0.2 + number, "w") for number in range(3)),
        ask(3.3, "d"),
        ask(3.301, "e", 0.005, late="refuse"),
    ]
    run = simulate([MODEL], arrivals, "slo_aware", seconds=5, seed=0)
    assert Counter(outcome.end for outcome in run.outcomes) == {"answered": 6, "superseded": 1, "expired": 1}


def test_a_replica_begins_its_next_call_once_it_has_turned_around() -> None:
    model = ModelSpec("m", (0.1,), turnaround_s=0.02)
    run = simulate([model], [ask(0.0, "a"), ask(0.01, "b")], "round_robin", seconds=1, seed=0)
    assert [(call.started_at, call.ended_at) for call in run.calls] == [
        (pytest.approx(0.0), pytest.approx(0.1)),
        (pytest.approx(0.12), pytest.approx(0.22)),
    ]


def test_a_run_may_end_while_a_replica_turns_around() -> None:
    model = ModelSpec("m", (0.1,), turnaround_s=0.02)
    run = simulate([model], [ask(0.0, "a"), ask(0.01, "b")], "slo_aware", seconds=0.11, seed=0)
    assert [outcome.end for outcome in run.outcomes] == ["answered", "open"]


def test_the_same_arguments_give_the_same_run(make_fleet: Callable[..., Fleet]) -> None:
    fleet = example("mixed")
    runs = []
    for _ in range(2):
        arrivals = generate.arrivals(fleet, seconds=3, seed=7, load=1.5)
        runs.append(simulate(generate.models(fleet), arrivals, "slo_aware", seconds=3, seed=7))
    assert runs[0].outcomes == runs[1].outcomes
    assert runs[0].calls == runs[1].calls


def test_time_is_real_again_afterwards() -> None:
    before = time.monotonic
    simulate([MODEL], [ask(0.1, "a")], "slo_aware", seconds=1, seed=0)
    assert time.monotonic is before
    with pytest.raises(ValueError, match="model: 'a' asks for 'm', which is not among the models"):
        simulate([ModelSpec("n", (0.01,))], [ask(0.1, "a")], "slo_aware", seconds=1, seed=0)
    assert time.monotonic is before


def test_options_and_progress_are_the_callers() -> None:
    steps: list[float] = []
    arrivals = [ask(number / 10, "a") for number in range(40)]
    simulate(
        [MODEL], arrivals, "batch_optimized", seconds=4, seed=0, options={"max_wait_ms": 5.0}, progress=steps.append
    )
    assert steps == sorted(steps)
    assert len(steps) >= 5
    with pytest.raises(ValueError, match="unknown option 'patience'"):
        simulate([MODEL], arrivals, "slo_aware", seconds=4, seed=0, options={"patience": 1})


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ask_at_steps", [5, 6, 7])
def test_replicas_whose_latest_starts_differ_do_not_stop_the_clock(
    ask_at_steps: int, make_fleet: Callable[..., Fleet]
) -> None:
    vla = {"fixed_ms": 65.4, "per_row_ms": 10.57, "max_batch_size": 8, "replicas": 4}
    arm = {
        "kind": "chunked",
        "count": 64,
        "rate_hz": 50,
        "horizon_steps": 50,
        "jitter_ms": 5,
        "budget_ms": None,
        "loop": "open",
    }
    fleet = make_fleet({"m": vla}, arm={**arm, "budget_ms": None, "ask_at_steps": ask_at_steps})
    for seed in range(3):
        arrivals = generate.arrivals(fleet, seconds=6, seed=seed)
        run = simulate(generate.models(fleet), arrivals, "slo_aware", seconds=6, seed=seed)
        assert run.calls[-1].ended_at > 5.8


@settings(max_examples=30, deadline=None)
@given(
    jobs=st.lists(
        st.tuples(st.integers(0, 300), st.integers(1, 80), st.integers(0, 4), st.booleans(), st.booleans()),
        max_size=40,
    ),
    spread=st.sampled_from([0.0, 0.3]),
)
def test_every_arrival_has_one_outcome_whatever_the_strategy(
    jobs: list[tuple[int, int, int, bool, bool]], spread: float
) -> None:
    arrivals = [
        ask(at / 1e3, f"c{client}", lasts / 1e3, latest=latest, late="refuse" if refuse else "serve")
        for at, lasts, client, latest, refuse in sorted(jobs)
    ]
    model = ModelSpec("m", (0.010, 0.012), spread, (1.0, 0.7))
    for strategy in scheduler_names():
        run = simulate([model], arrivals, strategy, seconds=8, seed=1)
        assert [outcome.arrival for outcome in run.outcomes] == arrivals
        ends = Counter(outcome.end for outcome in run.outcomes)
        assert ends["open"] == 0
        assert sum(call.rows for call in run.calls) == ends["answered"]
        assert sum(call.in_time for call in run.calls) == sum(outcome.in_time for outcome in run.outcomes)


def test_a_call_that_waits_for_more_rows_leaves_time_for_one_of_robots_with_chunks_on_its_device(
    make_fleet: Callable[..., Fleet],
) -> None:
    models = {
        "policy": {"fixed_ms": 65, "per_row_ms": 10, "max_batch_size": 2, "device": "gpu"},
        "safety": {"fixed_ms": 20, "per_row_ms": 5, "max_batch_size": 8, "device": "gpu"},
    }
    arm = {"model": "policy", "count": 12, "kind": "chunked", "rate_hz": 50, "horizon_steps": 50, "budget_ms": None}
    described = make_fleet(models, arm=arm, watcher={"model": "safety", "count": 12, "rate_hz": 2, "budget_ms": 250})
    watched = measure(simulated(described, seconds=6.0)).classes["watcher"]
    assert watched.in_time >= 0.9 * (watched.offered - watched.open_yet)
