"""slo_aware: deadlines that can be met are met, no client starves, and what cannot be in time is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from tests.scheduler.slo_bench import Bench, at

from inferential.scheduler import InferenceRequest
from inferential.scheduler.chunk_lane import WAKE_S
from inferential.scheduler.engine import RETRY_S, Capacity
from inferential.scheduler.request import RefusalKind, RequestState
from inferential.scheduler.time.robot_time import ChunkTime

MakeRequest = Callable[..., InferenceRequest]
StoppedClock = Callable[..., AbstractContextManager[Any]]


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


def test_batches_fill_while_calls_run_where_small_ones_do_not_carry_the_load(
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


def test_a_call_of_the_only_replica_waits_for_no_more_rows_at_high_load(
    clock: Any, make_request: MakeRequest, bench: Any
) -> None:
    run = bench(clock, [10.0, 10.5, 11.0, 11.5])
    arrivals = [
        at(make_request, clock, f"robot-{number % 16}", number * 3.125, number * 3.125 + 60) for number in range(320)
    ]
    last = arrivals[-1][0] + 0.05
    arrivals.append(at(make_request, clock, "alone", (last - clock.now) * 1e3, (last - clock.now) * 1e3 + 60))
    run.run(arrivals)
    assert run.ended[arrivals[-1][1]] == pytest.approx(last + 0.01)


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


def test_a_decision_among_a_thousand_leaves_nothing_behind(clock: Any, make_request: MakeRequest, bench: Any) -> None:
    run = bench(clock, [10.0, 11.0, 12.0, 13.0])
    arrivals = [at(make_request, clock, f"c{number}", 0, 50 + number) for number in range(1000)]
    run.run(arrivals)
    assert len(run.ended) == 1000
    status = run.engine.scheduler.status()
    assert (status["strategy"], status["queue_size"], status["lanes"]) == ("slo_aware", 0, {})
    assert time.monotonic() == clock.now


# Robots that play chunks


def chunk_at(make_request: MakeRequest, clock: Any, client: str, received: float, **fields: Any) -> Any:
    """An arrival of a robot without actions whose chunks last 500 ms; times in milliseconds."""
    renews, lead_s = fields.pop("renews", False), fields.pop("lead_s", 0.0)
    received_at = clock.now + received / 1e3
    chunk = ChunkTime(received_at, received_at + 0.5, 0.5, renews=renews, lead_s=lead_s)
    return at(make_request, clock, client, received, received + 20, chunk=chunk, **fields)


def test_by_robot_time_robots_that_starve_are_served_together_of_those_that_waited_alike_the_newest_first(
    clock: Any, make_request: MakeRequest, bench: Any
) -> None:
    arrivals = [chunk_at(make_request, clock, f"c{number}", 10 * number) for number in range(6)]
    run = bench(clock, [76.0, 86.0, 97.0])
    run.run(arrivals)
    called = [sorted(request.client_id for request in batch.requests) for batch in run.batches]
    assert called == [["c0"], ["c3", "c4", "c5"], ["c1", "c2"]]


def test_by_answers_they_are_served_as_all_others(clock: Any, make_request: MakeRequest, bench: Any) -> None:
    arrivals = [chunk_at(make_request, clock, f"c{number}", 10 * number) for number in range(4)]
    run = bench(clock, [76.0, 86.0, 97.0], slo_aware={"objective": "answers"})
    run.run(arrivals)
    called = [[request.client_id for request in batch.requests] for batch in run.batches]
    assert called == [["c0"], ["c1", "c2", "c3"]]


@pytest.mark.parametrize(("robots", "reserves"), [(4, True), (12, False)])
def test_robots_are_to_ask_earlier_unless_more_of_them_starve_than_the_next_calls_take(
    clock: Any, make_request: MakeRequest, bench: Any, robots: int, reserves: bool
) -> None:
    run = bench(clock, [20.0, 24.0, 28.0, 32.0])
    run.run([chunk_at(make_request, clock, f"c{number}", number / 10) for number in range(robots)])
    _, second, *_ = run.batches
    assert all((request.chunk.reserve_s > 0) == reserves for request in second.requests)


def test_robots_with_chunks_and_others_have_calls_in_proportion(
    clock: Any, make_request: MakeRequest, bench: Any
) -> None:
    arrivals = [chunk_at(make_request, clock, f"c{number}", number / 10) for number in range(8)]
    arrivals += [at(make_request, clock, f"p{number}", number / 10, 5_000) for number in range(8)]
    run = bench(clock, [76.0])
    run.run(sorted(arrivals, key=lambda arrival: arrival[0]))
    first = [batch.requests[0].client_id[0] for batch in run.batches[:9]]
    assert 3 <= first.count("c") <= 6
    assert all(request.state is RequestState.ANSWERED for _, request in arrivals)


def test_a_robot_that_renews_is_asked_once_for_a_newer_observation_and_keeps_its_place(
    clock: Any, make_request: MakeRequest, bench: Any
) -> None:
    begin, run = clock.now, bench(clock, [100.0, 100.0])
    engine = run.engine
    renewing = {"renews": True, "takes_latest": True, "lead_s": 0.03}
    for client in ("first", "a", "b"):
        engine.offer(chunk_at(make_request, clock, client, 0, **renewing)[1], clock.now)
        engine.work(clock.now)
    assert engine.outdated() == []
    clock.now = engine.wake_at()
    assert clock.now == pytest.approx(begin + 0.07 - WAKE_S)  # the call ends after 100 ms, and a robot needs 30
    assert engine.work(clock.now) == []
    assert [request.client_id for request in engine.outdated()] == ["a", "b"]
    assert engine.wake_at() > clock.now + 1.0
    newer = chunk_at(make_request, clock, "a", 70, **renewing)[1]
    newer.received_at = clock.now
    engine.offer(newer, clock.now)
    (ended,) = engine.ended()
    assert ended.refusal.kind is RefusalKind.SUPERSEDED
    assert newer.waiting_since == begin


def test_the_next_call_is_planned_once_the_one_before_it_has_begun(
    clock: Any, make_request: MakeRequest, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that takes less than a robot needs for a newer observation, so that who is asked is due at once."""
    engine, planned = bench(clock, [20.0]).engine, []
    take_outdated = engine.scheduler.take_outdated
    monkeypatch.setattr(engine.scheduler, "take_outdated", lambda: planned.append(clock.now) or take_outdated())
    for client in ("first", "a"):
        engine.offer(
            chunk_at(make_request, clock, client, 0, renews=True, takes_latest=True, lead_s=0.03)[1], clock.now
        )
    (call,) = engine.work(clock.now)
    assert len(call.requests) == 1
    assert not planned
    assert engine.wake_at() == clock.now + RETRY_S  # it is due still
    engine.outdated()
    assert planned == [clock.now]
    assert engine.wake_at() != clock.now + RETRY_S


def test_no_robot_is_asked_for_a_newer_observation_when_a_call_is_about_to_begin(
    clock: Any, make_request: MakeRequest, bench: Any
) -> None:
    """Three wait for a replica that becomes free, with observations that have aged; none could be renewed in time."""
    run = bench(clock, [100.0, 110.0])
    engine = run.engine
    (first,) = [chunk_at(make_request, clock, "first", 0)[1]]
    engine.offer(first, clock.now)
    (call,) = engine.work(clock.now)
    for client in "abc":
        engine.offer(chunk_at(make_request, clock, client, 0, renews=True, takes_latest=True)[1], clock.now)
        assert engine.work(clock.now) == []
    clock.now += 0.1
    engine.finished(call, clock.now)
    (batch,) = engine.work(clock.now)
    assert len(batch.requests) == 2
    assert engine.outdated() == []


def test_a_request_that_is_to_be_refused_late_is_once_no_action_would_be_left(
    clock: Any, make_request: MakeRequest, bench: Any
) -> None:
    begin, run = clock.now, bench(clock, [100.0])
    arrivals = [chunk_at(make_request, clock, f"c{number}", 0, late="refuse") for number in range(8)]
    run.run(arrivals)
    refused = [request for _, request in arrivals if request.state is RequestState.REFUSED]
    assert {request.refusal.kind for request in refused} == {RefusalKind.EXPIRED}
    assert min(run.ended[request] for request in refused) == pytest.approx(begin + 0.4)


def test_robots_with_actions_left_wait_for_more_rows_where_the_load_needs_them(
    clock: Any, make_request: MakeRequest, bench: Any
) -> None:
    """A hundred requests a second need calls of several rows; all robots have 0.3 s of actions left."""
    run = bench(clock, [20.0, 22.0, 24.0, 26.0, 28.0, 30.0, 32.0, 34.0])
    arrivals = []
    for number in range(300):
        arrival, request = at(make_request, clock, f"c{number % 25}", 10 * number, 10 * number + 300)
        request.chunk = ChunkTime(request.deadline, request.received_at + 0.5, 0.5)
        arrivals.append((arrival, request))
    run.run(arrivals)
    assert all(run.in_time(request) for _, request in arrivals)
    assert len(run.batches) < 200
