"""slo_aware for every sequence of requests: deadlines that can be met are met, and waiting has a bound."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scheduler.slo_bench import Bench, at

from inferential.scheduler import InferenceRequest
from inferential.scheduler.engine import Capacity
from inferential.scheduler.request import RefusalKind, RequestState
from inferential.scheduler.slo_aware import LATE_SHARE

MakeRequest = Callable[..., InferenceRequest]
StoppedClock = Callable[..., AbstractContextManager[Any]]


DUES = st.integers(min_value=1, max_value=12)


def most_in_time(requests: Sequence[tuple[int, int]]) -> int:
    """The most deadlines that any order meets, calls of 10 ms one after another: all orders tried."""
    best = 0
    for order in itertools.permutations(requests):
        now, met = 0, 0
        for _, due in order:
            if now + 10 <= due:
                now += 10
                met += 1
        best = max(best, met)
    return best


@given(dues=st.lists(DUES, min_size=1, max_size=6))
def test_of_what_waits_it_meets_as_many_deadlines_as_the_best_order(
    stopped_clock: StoppedClock, make_request: MakeRequest, bench: Any, dues: list[int]
) -> None:
    with stopped_clock() as clock:
        run = bench(clock, [10.0])
        begin = clock.now
        for number, due in enumerate(dues):
            _, request = at(make_request, clock, f"c{number}", 0, due * 7)
            run.engine.offer(request, begin)
            run.ended.setdefault(request, 0.0)
        requests = list(run.ended)
        run.ended.clear()
        # All are there before the first is taken.
        run.run([])
        assert sum(map(run.in_time, requests)) == most_in_time([(0, due * 7) for due in dues])


@given(jobs=st.lists(st.tuples(st.integers(0, 20), DUES, st.integers(0, 3)), min_size=1, max_size=12))
def test_what_the_earliest_deadline_first_meets_in_full_it_meets_in_full(
    stopped_clock: StoppedClock, make_request: MakeRequest, bench: Any, jobs: list[tuple[int, int, int]]
) -> None:
    jobs = sorted(jobs)
    now, waiting, queue, feasible = 0, [], list(jobs), True
    while queue or waiting:
        if not waiting:
            now = max(now, queue[0][0] * 3)
        while queue and queue[0][0] * 3 <= now:
            received, due, _ = queue.pop(0)
            heapq.heappush(waiting, received * 3 + due * 11 + 0.5)  # no ties, which rounding would decide
        now += 10
        feasible &= now <= heapq.heappop(waiting)
    with stopped_clock() as clock:
        run = bench(clock, [10.0])
        arrivals = [
            at(make_request, clock, f"c{client}", received * 3, received * 3 + due * 11 + 0.5)
            for received, due, client in jobs
        ]
        run.run(arrivals)
        if feasible:
            assert all(run.in_time(request) for _, request in arrivals)


@settings(max_examples=60, deadline=None)
@given(
    jobs=st.lists(
        st.tuples(
            st.integers(0, 400),  # received, ms
            st.integers(1, 120),  # its time, ms
            st.integers(0, 5),  # client
            st.integers(0, 3),  # priority
            st.floats(0, 1),  # urgency
            st.booleans(),  # takes the latest
            st.sampled_from(["serve", "refuse"]),
            st.sampled_from(["m", "n"]),
        ),
        min_size=1,
        max_size=60,
    ),
    batch=st.integers(1, 4),
    replicas=st.integers(1, 3),
    shared=st.booleans(),
)
def test_every_request_ends_once_and_those_that_want_service_get_it(
    stopped_clock: StoppedClock,
    make_request: MakeRequest,
    jobs: list[Any],
    batch: int,
    replicas: int,
    shared: bool,
) -> None:
    with stopped_clock() as clock:
        names = tuple(map(str, range(replicas)))
        capacity = {name: Capacity(1, batch, names, "gpu" if shared else None) for name in "mn"}
        latencies = {
            f"{model}/{name}": [10.0 * (1 + int(name)) + rows for rows in range(batch)]
            for model in "mn"
            for name in names
        }
        run = Bench(clock, capacity, latencies)
        arrivals = [
            at(
                make_request,
                clock,
                f"c{client}",
                received,
                received + lasts,
                priority=priority,
                urgency=urgency,
                takes_latest=latest,
                late=late,
                model=model,
            )
            for received, lasts, client, priority, urgency, latest, late, model in jobs
        ]
        run.run(arrivals)
        assert set(run.ended) == {request for _, request in arrivals}
        assert run.engine.waiting() == 0
        assert not run.engine.running()
        for request in run.ended:
            if request.state is RequestState.REFUSED:
                assert request.refusal is not None
                superseded = request.takes_latest and request.refusal.kind is RefusalKind.SUPERSEDED
                refused = request.late == "refuse" and request.refusal.cause == "deadline"
                assert superseded or refused


@settings(max_examples=25, deadline=None)
@given(
    robots=st.integers(2, 40),
    budget_ms=st.integers(5, 200),
    priorities=st.lists(st.integers(0, 5), min_size=40, max_size=40),
    latest=st.booleans(),
    latencies=st.sampled_from([[10.0], [10.0, 11.0, 12.0, 13.0], [30.0, 30.0]]),
)
def test_no_client_waits_longer_than_the_stated_bound(
    stopped_clock: StoppedClock,
    make_request: MakeRequest,
    bench: Any,
    robots: int,
    budget_ms: int,
    priorities: list[int],
    latest: bool,
    latencies: list[float],
) -> None:
    """2 starvation_ms + half its time + the calls that serve one of every client.

    Of clients that a call may well come too late for, the calls that begin with one of them are but one in 16.
    """
    with stopped_clock() as clock:
        run = bench(clock, latencies, max_queue_size=100_000, slo_aware={"starvation_ms": 200.0})
        arrivals = sorted(
            at(
                make_request,
                clock,
                f"robot-{number}",
                tick * 20 + number * 20 / robots,
                tick * 20 + number * 20 / robots + budget_ms,
                priority=priorities[number],
                takes_latest=latest,
            )
            for number in range(robots)
            for tick in range(75)
        )
        run.run(arrivals, until=clock.now + 1.5)
        calls = -(-robots // len(latencies)) + 1
        if budget_ms < 4 * latencies[-1]:
            calls *= LATE_SHARE
        bound = 2 * 0.2 + budget_ms / 2e3 + 2 * calls * latencies[-1] / 1e3
        served: dict[str, list[float]] = {}
        for batch in run.batches:
            for request in batch.requests:
                served.setdefault(request.client_id, []).append(batch.started_at)
        for number in range(robots):
            times = [100.0, *served.get(f"robot-{number}", []), 101.5]
            assert max(b - a for a, b in itertools.pairwise(times)) <= bound
