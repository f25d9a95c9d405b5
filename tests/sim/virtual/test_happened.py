"""What a server did, as models, arrivals and a run; simulated again, it comes out as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inferential.sim.virtual.asked import Asked
from inferential.sim.virtual.happened import STRATEGY, Happened, busy_before, models_of, run_of
from inferential.sim.virtual.measures import measure
from inferential.sim.virtual.simulation import simulate
from inferential.sim.virtual.world import Arrival, ModelSpec, Run


def happened_in(run: Run, clock: float = 1000.0) -> list[Happened]:
    """Returns what a recording of a simulated run would have."""
    sizes = {(call.model_id, call.started_at): (call.rows, call.ended_at) for call in run.calls}
    found = []
    for one in run.outcomes:
        arrival, started = one.arrival, one.started_at
        ran = one.end == "answered" and started is not None
        rows, ended = sizes[arrival.model_id, started] if ran and started is not None else (0, 0.0)
        found.append(
            Happened(
                clock + arrival.at,
                arrival.client_id,
                arrival.robot_class,
                arrival.model_id,
                one.end,
                (one.ended_at - arrival.at) * 1e3,
                (started - arrival.at) * 1e3 if ran and started is not None else 0.0,
                (ended - started) * 1e3 if ran and started is not None else 0.0,
                rows,
                (arrival.deadline - arrival.at) * 1e3,
            )
        )
    return found


def fleet(robots: int, period_s: float, budget_s: float, seconds: float = 10.0, latest: bool = True) -> list[Arrival]:
    return sorted(
        (
            Arrival(at, f"arm-{robot}", "pi0", "arm", at + budget_s, latest=latest)
            for robot in range(robots)
            for step in range(int(seconds / period_s))
            for at in [period_s * (step + robot / robots)]
        ),
        key=lambda arrival: arrival.at,
    )


MODEL = ModelSpec("pi0", (0.02, 0.024, 0.028, 0.032))


@pytest.mark.parametrize("strategy", ["deadline_aware", "batch_optimized"])
def test_what_happened_is_measured_as_it_was(strategy: str) -> None:
    run = simulate([MODEL], fleet(6, 0.1, 0.08), strategy, seconds=10.0, seed=0)
    again = run_of(happened_in(run))
    assert again.strategy == STRATEGY
    was, found = measure(run).overall, measure(again).overall
    assert (found.offered, found.ends, found.in_time) == (was.offered, was.ends, was.in_time)
    assert found.age_ms == pytest.approx(was.age_ms)
    assert sorted(call.rows for call in again.calls) == sorted(call.rows for call in run.calls)


def test_the_same_strategy_in_virtual_time_does_what_it_did() -> None:
    run = simulate([MODEL], fleet(6, 0.1, 0.08), "deadline_aware", seconds=10.0, seed=0)
    happened = happened_in(run)
    arrivals = [outcome.arrival for outcome in run_of(happened).outcomes]
    again = simulate(models_of(happened), arrivals, "deadline_aware", seconds=10.0, seed=0)
    was, found = measure(run).overall, measure(again).overall
    assert found.in_time == pytest.approx(was.in_time, rel=0.02)
    assert found.age_ms[0] == pytest.approx(was.age_ms[0], rel=0.1)


def test_latencies_by_batch_size_and_calls_at_once_are_read() -> None:
    run = simulate(
        [ModelSpec("pi0", (0.02, 0.03), max_inflight=2)], fleet(9, 0.1, 1.0), "deadline_aware", seconds=10.0, seed=0
    )
    (model,) = models_of(happened_in(run))
    assert model.max_inflight == 2
    assert model.latency_s[0] == pytest.approx(0.02, abs=1e-6)
    assert model.spread == pytest.approx(0, abs=1e-6)


def test_robots_that_want_every_answer_differ_from_those_that_want_the_newest() -> None:
    crowded = fleet(8, 0.05, 5.0, seconds=2.0, latest=False)
    run = simulate([MODEL], crowded, "deadline_aware", seconds=20.0, seed=0)
    assert not any(outcome.arrival.latest for outcome in run_of(happened_in(run)).outcomes)
    newest = simulate([MODEL], fleet(8, 0.05, 5.0, seconds=2.0), "deadline_aware", seconds=20.0, seed=0)
    assert all(outcome.arrival.latest for outcome in run_of(happened_in(newest)).outcomes)


@pytest.mark.parametrize(("load", "robots"), [(0.5, 3), (1.0, 6), (1.5, 9), (2.0, 12)])
def test_more_robots_ask_as_often_as_those_that_there_were(load: float, robots: int) -> None:
    arrivals = fleet(6, 0.1, 0.08)
    found = Asked(arrivals, (), 10.0).times(load).arrivals
    assert len({arrival.client_id for arrival in found}) == robots
    assert len(found) == len(arrivals) * robots // 6
    assert all(0 <= arrival.at < 10 and arrival.deadline - arrival.at == pytest.approx(0.08) for arrival in found)


def waiting_for_each_other(robots: int, turns: int, late_by: float = 0.0) -> list[Happened]:
    """Robots of which each asks again when it is answered, watched from some moment on."""
    took_ms = robots * 60.0
    return [
        Happened(
            0.06 * n + late_by, f"arm-{n % robots}", "arm", "pi0", "answered", took_ms, took_ms - 60, 60.0, 1, 170.0
        )
        for n in range(robots * turns)
    ]


def test_a_model_was_busy_until_the_first_call_that_is_known_of() -> None:
    assert busy_before(run_of(waiting_for_each_other(3, 10))) == {"pi0": (0.0, pytest.approx(0.12))}
    first, *others = waiting_for_each_other(3, 10)
    waited_longest = replace(first, queue_ms=900.0)  # as others were more urgent
    assert busy_before(run_of([waited_longest, *others])) == {"pi0": (0.0, pytest.approx(0.18))}


def test_what_was_busy_for_long_with_short_calls_is_simulated_at_once() -> None:
    times = {"queue_ms": 4e3, "inference_ms": 1e-3, "server_ms": 4e3, "budget_ms": 5e3}
    hung = [replace(one, **times) for one in waiting_for_each_other(3, 1)]
    run = run_of(hung)
    again = simulate(
        models_of(hung),
        [one.arrival for one in run.outcomes],
        "round_robin",
        seconds=run.seconds,
        seed=0,
        busy=busy_before(run),
    )
    assert [one.started_at for one in again.outcomes] == [pytest.approx(4.0)] * 3


def test_of_nothing_there_is_nothing() -> None:
    assert models_of([]) == []
    assert list(run_of([]).outcomes) == []


@pytest.mark.parametrize(
    ("devices", "found"),
    [
        ((None, None, None), [None, None, None]),
        (("gpu", "gpu", None), ["a", "a", None]),
        ((None, "gpu", "gpu"), [None, "b", "b"]),
        (("gpu", "gpu", "gpu"), ["a", "a", "a"]),
    ],
)
def test_models_whose_calls_never_ran_at_once_share_a_device(
    devices: tuple[str | None, ...], found: list[str | None]
) -> None:
    names = ("a", "b", "c")
    models = [ModelSpec(name, (0.02,), 0.1, device=device) for name, device in zip(names, devices, strict=True)]
    arrivals = [
        replace(one, model_id=name, client_id=f"{name}-{one.client_id}")
        for number, name in enumerate(names)
        for one in fleet(2, 0.13 + 0.011 * number, 0.5)
    ]
    arrivals.sort(key=lambda arrival: arrival.at)
    run = simulate(models, arrivals, "deadline_aware", seconds=10.0, seed=0)
    assert [model.device for model in models_of(happened_in(run))] == found


def test_models_that_were_seldom_asked_are_not_known_to_share_a_device() -> None:
    arrivals = [replace(one, model_id=name) for name in ("a", "b") for one in fleet(1, 1.0, 0.5)]
    models = [ModelSpec("a", (0.02,), device="gpu"), ModelSpec("b", (0.02,), device="gpu")]
    run = simulate(models, arrivals, "deadline_aware", seconds=10.0, seed=0)
    assert [model.device for model in models_of(happened_in(run))] == [None, None]
