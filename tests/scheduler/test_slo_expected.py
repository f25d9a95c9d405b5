"""slo_aware on one replica: a call waits for what is expected where that serves more, and still abandons no one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scheduler.slo_bench import Bench, at

from inferential.scheduler import InferenceRequest
from inferential.scheduler.engine import Batch
from inferential.scheduler.request import RequestState

MakeRequest = Callable[..., InferenceRequest]
PERIOD_MS = 100.0
LATENCIES_MS = (60.0, 65.0)


def periodic(
    make_request: MakeRequest, clock: Any, phases_ms: Sequence[float], seconds: float, **fields: Any
) -> list[tuple[float, InferenceRequest]]:
    """Requests of robots that ask each PERIOD_MS and want their answers within 90 ms."""
    arrivals = []
    for number, phase_ms in enumerate(phases_ms):
        of_robot = {name: values[number] for name, values in fields.items()}
        for turn in range(int(seconds * 1e3 / PERIOD_MS)):
            received_ms = phase_ms + turn * PERIOD_MS
            due_ms = received_ms + 90
            arrivals.append(
                at(make_request, clock, f"robot {number}", received_ms, due_ms, takes_latest=True, **of_robot)
            )
    return arrivals


def in_time(run: Bench, arrivals: Sequence[tuple[float, InferenceRequest]], after: float) -> float:
    counted = [request for received_at, request in arrivals if received_at >= after]
    return sum(map(run.in_time, counted)) / len(counted)


@pytest.mark.parametrize(("cadence_s", "least", "most"), [(0.1, 1.0, 1.0), (0.0, 0.4, 0.9)])
def test_a_call_waits_for_a_request_that_is_expected(
    clock: Any, make_request: MakeRequest, bench: Any, cadence_s: float, least: float, most: float
) -> None:
    """Two robots, the second 20 ms behind: in calls of their own one of them is late, where no cadence is known."""
    begin, run = clock.now, bench(clock, LATENCIES_MS)
    arrivals = periodic(make_request, clock, (0, 20), 3.0, time_until_next=(cadence_s, cadence_s))
    run.run(arrivals)
    assert least <= in_time(run, arrivals, begin + 1.0) <= most


def test_a_robot_that_stays_away_is_waited_for_only_briefly(clock: Any, make_request: MakeRequest, bench: Any) -> None:
    run = bench(clock, LATENCIES_MS)
    arrivals = periodic(make_request, clock, (0, 20), 2.0, time_until_next=(0.1, 0.1))
    gone = arrivals[-1][1]
    run.run(arrivals[:-1])
    assert gone not in run.ended
    assert all(run.in_time(request) for _, request in arrivals[-10:-1])


def test_robots_of_another_priority_are_not_planned_with_others(
    clock: Any, make_request: MakeRequest, bench: Any
) -> None:
    """The more important one, which comes first, is served at once."""
    begin, run = clock.now, bench(clock, LATENCIES_MS)
    fields = {"time_until_next": (0.1, 0.1), "priority": (0, 3)}
    arrivals = periodic(make_request, clock, (0, 20), 2.0, **fields)
    run.run(arrivals)
    important = [request for received_at, request in arrivals if request.priority == 0 and received_at > begin + 1]
    assert all(run.in_time(request) for request in important)


def test_no_robot_is_left_out_for_long_where_there_are_too_many(
    clock: Any, make_request: MakeRequest, bench: Any
) -> None:
    """Six ask for twice what there is: each is answered at least once in two seconds."""
    begin, run = clock.now, bench(clock, LATENCIES_MS)
    arrivals = periodic(make_request, clock, (0, 3, 11, 30, 52, 70), 8.0, time_until_next=(0.1,) * 6)
    run.run(arrivals)
    for client in {request.client_id for _, request in arrivals}:
        answered = [
            run.ended[one] for _, one in arrivals if one.client_id == client and one.state is RequestState.ANSWERED
        ]
        times = [begin, *sorted(answered), begin + 8.0]
        assert max(later - sooner for sooner, later in itertools.pairwise(times)) < 2.0


@given(
    phases_ms=st.lists(st.floats(0, 100), min_size=2, max_size=8),
    latencies_ms=st.lists(st.floats(5, 60), min_size=2, max_size=4),
    off_ms=st.sampled_from([0.0, 1.0, 8.0]),
    missing=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=30, deadline=None)
def test_all_that_is_asked_ends_and_nothing_is_woken_for_the_same_moment_again(
    stopped_clock: Any,
    make_request: MakeRequest,
    bench: Any,
    phases_ms: list[float],
    latencies_ms: list[float],
    off_ms: float,
    missing: float,
    seed: int,
) -> None:
    """Robots come about when they are expected, or stay away."""
    chance = random.Random(seed)
    with stopped_clock() as clock:
        run, begin = bench(clock, list(itertools.accumulate(latencies_ms))), clock.now
        arrivals = []
        for at_s, request in periodic(make_request, clock, phases_ms, 1.5, time_until_next=(0.1,) * len(phases_ms)):
            if chance.random() >= missing:
                request.received_at = request.waiting_since = max(at_s + chance.gauss(0, off_ms / 1e3), begin)
                arrivals.append((request.received_at, request))
        work, works = run.engine.work, itertools.count()

        def checked(now: float) -> list[Batch]:
            batches: list[Batch] = work(now)
            at_s = run.engine.wake_at()
            assert at_s is None or at_s > now
            assert next(works) < 50 * len(phases_ms) * 15
            return batches

        run.engine.work = checked
        run.run(sorted(arrivals, key=lambda arrival: arrival[0]))
        assert all(request.over for _, request in arrivals)
        assert run.engine.idle
