"""slo_aware under overload: clients get equal shares, or shares by what a miss costs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from tests.scheduler.slo_bench import Bench, at

from inferential.scheduler import InferenceRequest

MakeRequest = Callable[..., InferenceRequest]
StoppedClock = Callable[..., AbstractContextManager[Any]]


def fleet(
    make_request: MakeRequest, clock: Any, robots: int, seconds: float, **fields: Any
) -> Iterator[tuple[float, InferenceRequest]]:
    """Robots at 50 Hz, out of step; an action may be 60 ms old."""
    for number in range(robots):
        for tick in range(int(seconds * 50)):
            received = tick * 20 + number * 20 / robots
            yield at(
                make_request,
                clock,
                f"robot-{number:02d}",
                received,
                received + 60,
                takes_latest=True,
                **{name: value(number) if callable(value) else value for name, value in fields.items()},
            )


def answers(run: Bench, arrivals: Sequence[tuple[float, InferenceRequest]]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {}
    for _, request in arrivals:
        times.setdefault(request.client_id, [])
        if run.in_time(request):
            times[request.client_id].append(run.ended[request])
    return times


def test_an_overloaded_fleet_gets_the_same_each_and_all_that_the_model_can_give(
    clock: Any, make_request: MakeRequest, bench: Any
) -> None:
    run = bench(clock, [8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0])  # 533 rows a second in full batches
    arrivals = sorted(fleet(make_request, clock, 32, 4.0), key=lambda arrival: arrival[0])  # asks 1,600
    run.run(arrivals)
    times = answers(run, arrivals)
    assert sum(map(len, times.values())) > 0.95 * 4.0 * 533
    counts = sorted(map(len, times.values()))
    assert counts[-1] - counts[0] <= 3


def test_under_overload_what_matters_more_is_served_more_and_the_rest_does_not_starve(
    clock: Any, make_request: MakeRequest, bench: Any
) -> None:
    run = bench(clock, [8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0])
    arrivals = sorted(
        fleet(make_request, clock, 32, 6.0, priority=lambda number: number % 2), key=lambda arrival: arrival[0]
    )
    run.run(arrivals)
    times = answers(run, arrivals)
    important = [len(times[f"robot-{number:02d}"]) for number in range(0, 32, 2)]
    others = [len(times[f"robot-{number:02d}"]) for number in range(1, 32, 2)]
    assert min(important) > 3 * max(others)
    gaps = [max(b - a for a, b in itertools.pairwise([100.0, *seen])) for seen in times.values()]
    assert max(gaps) < 1.0 + 0.06 + 0.1


def test_even_overload_knows_no_priority(clock: Any, make_request: MakeRequest, bench: Any) -> None:
    run = bench(clock, [8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0], slo_aware={"overload": "even"})
    arrivals = sorted(
        fleet(make_request, clock, 32, 2.0, priority=lambda number: number % 2), key=lambda arrival: arrival[0]
    )
    run.run(arrivals)
    counts = sorted(map(len, answers(run, arrivals).values()))
    assert counts[-1] - counts[0] <= 3


def test_clients_that_want_every_answer_do_not_lose_all_deadlines_to_overload(
    clock: Any, make_request: MakeRequest, bench: Any
) -> None:
    run = bench(clock, [8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0], max_queue_size=100_000)
    arrivals = sorted(
        (
            (received_at, make_request(request.client_id, received_at=received_at, deadline=request.deadline))
            for received_at, request in fleet(make_request, clock, 22, 4.0)
        ),
        key=lambda arrival: arrival[0],
    )  # asks 1,100 of 533
    run.run(arrivals, until=104.0)
    in_time = sum(run.in_time(request) for _, request in arrivals if request in run.ended)
    assert in_time > 0.85 * 4.0 * 533
