"""What could be done at best: no strategy beats the exact best, and that never beats the bound."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferential.scheduler import scheduler_names
from inferential.sim.virtual.bound import upper_bound
from inferential.sim.virtual.exact import MOST_REQUESTS, most_in_time
from inferential.sim.virtual.simulation import simulate
from inferential.sim.virtual.world import Arrival, ModelSpec

ONE = ModelSpec("m", (0.010,))
BATCHING = ModelSpec("m", (0.010, 0.011, 0.012, 0.013))


def asked(*times_ms: tuple[int, int], model: str = "m") -> list[Arrival]:
    """Arrivals of robots of their own, with when their deadlines are; in milliseconds."""
    return [
        Arrival(at / 1e3, f"{model}-{number}", model, "robot", due / 1e3) for number, (at, due) in enumerate(times_ms)
    ]


@pytest.mark.parametrize(
    ("models", "arrivals", "exact", "bound"),
    [
        ([ONE], asked((0, 10), (0, 20), (0, 30)), 3, 3),
        ([ONE], asked((0, 10), (0, 10), (0, 10)), 1, 1),
        ([ONE], asked((0, 9)), 0, 0),
        ([ONE], asked((0, 15), (0, 15)), 1, 1),
        ([BATCHING], asked((0, 13), (0, 13), (0, 13), (0, 13)), 4, 4),
        ([BATCHING], asked((0, 11), (0, 11), (0, 11)), 2, 3),  # a batch of 4 would do 3 rows in that time, if filled
        ([ModelSpec("m", (0.010,), speeds=(1.0, 2.0))], asked((0, 5), (0, 10), (0, 10)), 3, 3),
        ([ModelSpec("m", (0.010,), turnaround_s=0.002)], asked((0, 10), (0, 20), (0, 32)), 2, 2),
    ],
)
def test_small_cases_by_hand(models: list[ModelSpec], arrivals: list[Arrival], exact: int, bound: int) -> None:
    assert most_in_time(models, arrivals) == exact
    assert upper_bound(models, arrivals, 1.0) == bound


def test_of_models_that_share_a_device_the_cheaper_is_worth_more() -> None:
    cheap, dear = ModelSpec("cheap", (0.010,), device="gpu"), ModelSpec("dear", (0.030,), device="gpu")
    arrivals = asked(*[(0, 30)] * 3, model="cheap") + asked((0, 30), (0, 60), model="dear")
    assert most_in_time([cheap, dear], arrivals) == 4
    assert upper_bound([cheap, dear], arrivals, 1.0) == 4


def test_what_is_due_after_the_end_must_be_answered_before_it() -> None:
    assert upper_bound([ONE], asked((0, 100), (0, 100)), 0.015) == 1


def test_trying_all_is_for_a_handful() -> None:
    with pytest.raises(ValueError, match="arrivals: expected at most 8, got 9"):
        most_in_time([ONE], asked(*[(0, 10)] * (MOST_REQUESTS + 1)))


JOBS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 60), st.sampled_from("mn")), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    jobs=JOBS,
    latencies=st.sampled_from([(0.010,), (0.010, 0.012), (0.007, 0.009, 0.020)]),
    speeds=st.sampled_from([(1.0,), (1.0, 0.5)]),
    shared=st.booleans(),
    turnaround_s=st.sampled_from([0.0, 0.004]),
)
def test_no_strategy_beats_the_best_and_that_never_beats_the_bound(
    jobs: list[tuple[int, int, str]],
    latencies: tuple[float, ...],
    speeds: tuple[float, ...],
    shared: bool,
    turnaround_s: float,
) -> None:
    device = "gpu" if shared else None
    if shared:
        speeds = (1.0,)
    models = [
        ModelSpec("m", latencies, speeds=speeds, device=device, turnaround_s=turnaround_s),
        ModelSpec("n", (0.015, 0.016), speeds=speeds, device=device, turnaround_s=turnaround_s),
    ]
    arrivals = sorted(
        (
            Arrival(at / 1e3, f"c{number}", model, "robot", (at + lasts) / 1e3)
            for number, (at, lasts, model) in enumerate(jobs)
        ),
        key=lambda arrival: arrival.at,
    )
    best = most_in_time(models, arrivals)
    assert best <= upper_bound(models, arrivals, 10.0)
    for strategy in scheduler_names():
        run = simulate(models, arrivals, strategy, seconds=10.0, seed=0)
        assert sum(outcome.in_time for outcome in run.outcomes) <= best
