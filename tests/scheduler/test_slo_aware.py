"""slo_aware: deadlines that can be met are met, no client starves, and what cannot be in time is refused."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest, create_scheduler
from inferential.scheduler.engine import Batch, Capacity, Engine
from inferential.scheduler.request import RefusalKind, RequestState
from inferential.scheduler.slo_aware import LATE_SHARE
from inferential.scheduler.time.profile import Profiles

MakeRequest = Callable[..., InferenceRequest]
StoppedClock = Callable[..., AbstractContextManager[Any]]


@dataclass
class Bench:
    """An engine whose calls take exactly what its profile says, in virtual time."""

    clock: Any
    capacity: dict[str, Capacity]
    latency_ms: dict[str, list[float]]  # by "model" or "model/replica": of 1, 2, ... rows
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = SchedulingConfig(strategy="slo_aware", **self.options)
        profiles = Profiles()
        for name, latencies_ms in self.latency_ms.items():
            model_id, _, replica = name.partition("/")
            profile = profiles.of(model_id, replica)
            for rows, latency_ms in enumerate(latencies_ms, 1):
                profile.load(rows, latency_ms / 1e3, latency_ms / 1e3)
        self.engine = Engine(config, create_scheduler(config), lambda model_id: self.capacity[model_id], profiles)
        self.ended: dict[InferenceRequest, float] = {}
        self.batches: list[Batch] = []

    def takes_s(self, batch: Batch) -> float:
        name = f"{batch.model_id}/{batch.replica}" if batch.replica else batch.model_id
        return self.latency_ms[name][len(batch.requests) - 1] / 1e3

    def run(self, arrivals: Sequence[tuple[float, InferenceRequest]], until: float = 1e9) -> None:
        """Offers requests at their times; runs until nothing is left to do."""
        events: list[tuple[float, int, Any]] = []
        serials = itertools.count()
        for at, request in arrivals:
            heapq.heappush(events, (at, next(serials), request))
        while True:
            wake_at = self.engine.wake_at()
            if events and (wake_at is None or events[0][0] <= wake_at):
                at, _, event = heapq.heappop(events)
            elif wake_at is not None:
                at, event = wake_at, None
            else:
                return
            self.clock.now = max(self.clock.now, at)
            now = self.clock.now
            if now > until:
                return
            if isinstance(event, Batch):
                self.engine.finished(event, now)
                for request in event.requests:
                    request.move(RequestState.ANSWERED)
                    self._end(request, now)
            elif isinstance(event, InferenceRequest):
                self.engine.offer(event, now)
            else:
                self.engine.expire(now)
            for batch in self.engine.work(now):
                self.batches.append(batch)
                heapq.heappush(events, (now + self.takes_s(batch), next(serials), batch))
            for request in self.engine.ended():
                self._end(request, now)

    def _end(self, request: InferenceRequest, now: float) -> None:
        assert request not in self.ended
        assert request.over
        self.ended[request] = now

    def in_time(self, request: InferenceRequest) -> bool:
        return request.state is RequestState.ANSWERED and self.ended[request] <= request.deadline + 1e-9


@pytest.fixture(scope="session")
def bench() -> Callable[..., Bench]:
    def make(clock: Any, latencies_ms: Sequence[float], *, replicas: Sequence[str] = ("",), **options: Any) -> Bench:
        names = [f"m/{replica}" if replica else "m" for replica in replicas]
        capacity = {"m": Capacity(1, len(latencies_ms), tuple(replicas))}
        return Bench(clock, capacity, {name: list(latencies_ms) for name in names}, options)

    return make


def at(make_request: MakeRequest, clock: Any, client: str, received: float, due: float, **fields: Any) -> Any:
    """An arrival: times in milliseconds from the clock's beginning."""
    begin = clock.now
    request = make_request(
        client,
        received_at=begin + received / 1e3,
        deadline=begin + due / 1e3,
        latency_budget_ms=due - received,
        **fields,
    )
    return request.received_at, request


# The order


def test_the_earliest_deadline_goes_first(clock: Any, make_request: MakeRequest, bench: Any) -> None:
    run = bench(clock, [10.0])
    arrivals = [at(make_request, clock, name, 0, due) for name, due in (("c", 90), ("a", 30), ("b", 60))]
    run.run(arrivals)
    first = [batch.requests[0].client_id for batch in run.batches]
    assert first == ["c", "a", "b"]  # c was there alone, and a call is not interrupted


def test_what_cannot_be_in_time_delays_no_other_and_is_served_last(
    clock: Any, make_request: MakeRequest, bench: Any
) -> None:
    run = bench(clock, [10.0])
    arrivals = [
        at(make_request, clock, "running", 0, 50),
        at(make_request, clock, "late", 1, 15),
        at(make_request, clock, "one", 2, 21),
        at(make_request, clock, "two", 3, 31),
    ]
    run.run(arrivals)
    assert [batch.requests[0].client_id for batch in run.batches] == ["running", "one", "two", "late"]
    assert [run.in_time(request) for _, request in arrivals] == [True, False, True, True]


def test_a_batch_is_as_large_as_its_tightest_member_allows(clock: Any, make_request: MakeRequest, bench: Any) -> None:
    run = bench(clock, [10.0, 12.0, 14.0, 16.0])
    arrivals = [at(make_request, clock, "first", 0, 90), at(make_request, clock, "tight", 1, 23)]
    arrivals += [at(make_request, clock, name, 2, 200) for name in "xyz"]
    run.run(arrivals)
    assert [sorted(request.client_id for request in batch.requests) for batch in run.batches] == [
        ["first"],
        ["tight", "x"],
        ["y", "z"],
    ]
    assert all(run.in_time(request) for _, request in arrivals)


def test_at_low_load_no_call_waits_for_more_rows(clock: Any, make_request: MakeRequest, bench: Any) -> None:
    run = bench(clock, [10.0, 11.0, 12.0, 13.0])
    arrivals = [at(make_request, clock, f"robot-{number % 4}", 100 * number, 100 * number + 90) for number in range(40)]
    run.run(arrivals)
    assert all(run.ended[request] - request.received_at == pytest.approx(0.01) for _, request in arrivals)


def test_a_batch_waits_for_more_rows_only_where_small_ones_do_not_carry_the_load(
    clock: Any, make_request: MakeRequest, bench: Any
) -> None:
    run = bench(clock, [10.0, 10.5, 11.0, 11.5])
    # 16 robots at 20 Hz ask 320 times a second; calls of one row carry 100, of four 348.
    arrivals = [
        at(make_request, clock, f"robot-{number % 16}", number * 3.125, number * 3.125 + 60) for number in range(640)
    ]
    run.run(arrivals)
    settled = [batch for batch in run.batches if batch.started_at > 101.0]
    assert sum(len(batch.requests) for batch in settled) / len(settled) > 3.5
    assert all(run.in_time(request) for _, request in arrivals if request.received_at > 100.2)


# Being refused


def test_a_request_that_wants_it_is_refused_at_once_where_it_cannot_be_in_time(
    clock: Any, make_request: MakeRequest, bench: Any
) -> None:
    run = bench(clock, [10.0])
    arrivals = [
        at(make_request, clock, "running", 0, 50),
        at(make_request, clock, "refused", 1, 15, late="refuse"),
        at(make_request, clock, "served", 1, 15, late="serve"),
    ]
    run.run(arrivals)
    refused = arrivals[1][1]
    assert refused.refusal is not None
    assert refused.refusal.kind is RefusalKind.EXPIRED
    assert refused.refusal.reason.startswith(
        "it cannot be in time: 14 ms were left of 14 ms, and an answer takes 19 ms"
    )
    assert run.ended[refused] == pytest.approx(refused.received_at)
    assert arrivals[2][1].state is RequestState.ANSWERED


def test_it_is_refused_at_once_where_those_before_it_leave_no_time(
    clock: Any, make_request: MakeRequest, bench: Any
) -> None:
    run = bench(clock, [10.0])
    arrivals = [at(make_request, clock, f"c{number}", 0, 180 + number) for number in range(20)]
    hopeless = at(make_request, clock, "hopeless", 5, 205, late="refuse")
    important = at(make_request, clock, "important", 5, 205, late="refuse", priority=0)
    run.run([*arrivals, hopeless, important])
    assert run.ended[hopeless[1]] == pytest.approx(hopeless[0])
    assert hopeless[1].state is RequestState.REFUSED
    assert run.in_time(important[1])


def test_a_model_of_unknown_speed_refuses_no_request_before_the_deadline(
    clock: Any, make_request: MakeRequest, bench: Any
) -> None:
    run = bench(clock, [10.0])
    run.engine.profiles.of("m").__init__()
    arrivals = [at(make_request, clock, str(number), 0, 25, late="refuse") for number in range(4)]
    run.run(arrivals)
    answered = [request for _, request in arrivals if request.state is RequestState.ANSWERED]
    refused = [request for _, request in arrivals if request.state is RequestState.REFUSED]
    assert len(answered) == 3  # the third was begun in the hope that calls take less than they seem to
    assert len(refused) == 1


def test_a_model_that_refuses_all_is_tried_again_now_and_then(
    clock: Any, make_request: MakeRequest, bench: Any
) -> None:
    run = bench(clock, [100.0])
    run.latency_ms["m"] = [10.0]  # it has become faster; only a call can tell
    arrivals = [at(make_request, clock, "robot", number * 50, number * 50 + 50, late="refuse") for number in range(300)]
    run.run(arrivals)
    assert arrivals[1][1].state is RequestState.REFUSED
    assert all(run.in_time(request) for _, request in arrivals[-100:])


# Replicas and devices


def test_a_tight_request_is_left_to_the_faster_replica(clock: Any, make_request: MakeRequest, bench: Any) -> None:
    run = bench(clock, [10.0], replicas=("fast", "slow"))
    run.latency_ms["m/slow"] = [40.0]
    slow = run.engine.profiles.of("m", "slow")
    slow.__init__()
    slow.load(1, 0.04, 0.04)
    arrivals = [
        at(make_request, clock, "a", 0, 30),
        at(make_request, clock, "tight", 1, 30),
        at(make_request, clock, "loose", 1, 100),
    ]
    run.run(arrivals)
    assert {batch.requests[0].client_id: batch.replica for batch in run.batches} == {
        "a": "fast",
        "tight": "fast",
        "loose": "slow",
    }
    assert all(run.in_time(request) for _, request in arrivals)


def test_models_that_share_a_device_go_by_whose_request_must_begin_first(clock: Any, make_request: MakeRequest) -> None:
    capacity = {name: Capacity(1, 1, device="gpu") for name in ("long", "short")}
    run = Bench(clock, capacity, {"long": [50.0], "short": [10.0]})
    arrivals = [
        at(make_request, clock, "first", 0, 90, model="short"),
        at(make_request, clock, "long", 1, 75, model="long"),
        at(make_request, clock, "short", 2, 72, model="short"),
    ]
    run.run(arrivals)
    assert [batch.model_id for batch in run.batches] == ["short", "long", "short"]
    assert all(run.in_time(request) for _, request in arrivals)


# Overload


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


# For every sequence of requests

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


def test_a_decision_among_a_thousand_leaves_nothing_behind(clock: Any, make_request: MakeRequest, bench: Any) -> None:
    run = bench(clock, [10.0, 11.0, 12.0, 13.0])
    arrivals = [at(make_request, clock, f"c{number}", 0, 50 + number) for number in range(1000)]
    run.run(arrivals)
    assert len(run.ended) == 1000
    status = run.engine.scheduler.status()
    assert (status["strategy"], status["queue_size"], status["lanes"]) == ("slo_aware", 0, {})
    assert time.monotonic() == clock.now
