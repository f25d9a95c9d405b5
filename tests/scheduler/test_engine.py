"""The engine under any sequence of events: slots are kept, and every request ends once."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest, create_scheduler
from inferential.scheduler.deadline_aware import DeadlineAwareScheduler
from inferential.scheduler.engine import Batch, Capacity, Engine
from inferential.scheduler.request import IllegalTransition, RequestState

STRATEGIES = ["batch_optimized", "deadline_aware", "model_deadline", "priority_tiered", "round_robin", "slo_aware"]
MakeRequest = Callable[..., InferenceRequest]


def make_engine(max_inflight: int = 1, max_batch_size: int = 1, **options: Any) -> Engine:
    config = SchedulingConfig(**options)
    return Engine(config, create_scheduler(config), lambda model_id: Capacity(max_inflight, max_batch_size))


def begun(clock: Any, make_request: MakeRequest) -> tuple[Engine, Batch, InferenceRequest, InferenceRequest]:
    """An engine of one slot, the call that runs in it, its request, and the one that waits."""
    engine = make_engine()
    first, second = make_request("a"), make_request("b")
    engine.offer(first, clock.now)
    engine.offer(second, clock.now)
    (batch,) = engine.work(clock.now)
    return engine, batch, first, second


def test_a_busy_model_holds_up_no_other(clock: Any, make_request: MakeRequest) -> None:
    engine = make_engine()
    for model in ("busy", "busy", "idle"):
        engine.offer(make_request("a", model), clock.now)
    assert sorted(batch.model_id for batch in engine.work(clock.now)) == ["busy", "idle"]
    assert engine.work(clock.now) == []
    assert engine.waiting("busy") == 1


def test_a_freed_slot_takes_the_next(clock: Any, make_request: MakeRequest) -> None:
    engine, batch, _, second = begun(clock, make_request)
    engine.finished(batch, clock.now)
    assert [batch.requests for batch in engine.work(clock.now)] == [[second]]


def test_a_robot_with_state_is_followed_by_its_next_request_once_the_one_before_is_over(
    clock: Any, make_request: MakeRequest
) -> None:
    engine = make_engine(max_inflight=2)
    first, second = make_request("a"), make_request("a")
    for request in (first, second):
        request.pace_s, request.in_order = math.inf, ("a", "m")
        engine.offer(request, clock.now)
    (batch,) = engine.work(clock.now)
    assert batch.requests == [first]
    engine.finished(batch, clock.now)
    assert engine.work(clock.now) == []  # its result is not written yet
    engine.release(batch, clock.now)
    assert [batch.requests for batch in engine.work(clock.now)] == [[second]]


def test_a_call_that_ends_can_be_followed_and_its_requests_run_on(clock: Any, make_request: MakeRequest) -> None:
    engine, batch, first, second = begun(clock, make_request)
    engine.ending(batch, clock.now)
    (following,) = engine.work(clock.now)
    assert engine.inflight("m") == 2
    assert engine.running() == [second, first]
    assert engine.running_calls("m") == [following, batch]
    engine.finished(batch, clock.now)
    engine.ending(following, clock.now)
    assert engine.running() == [second]
    assert not engine.idle
    engine.finished(following, clock.now)
    assert engine.idle


def test_a_call_that_is_to_end_and_does_not_runs_on(clock: Any, make_request: MakeRequest) -> None:
    engine = make_engine()
    engine.offer(make_request("a"), clock.now)
    (batch,) = engine.work(clock.now)
    began = clock.now
    clock.now += 0.01
    engine.ending(batch, clock.now)
    clock.now += 60
    assert engine.running_since() == {"m": [began]}
    assert engine.inflight("m") == 1
    engine.finished(batch, clock.now)
    assert engine.running_since() == {}


def test_a_full_call_may_be_sent_ahead(clock: Any, make_request: MakeRequest) -> None:
    engine = make_engine(max_batch_size=2)
    found = []
    for robot in ("a", "b", "c", "d"):
        engine.offer(make_request(robot), clock.now)
        if robot == "a":
            engine.work(clock.now)
        found.append(engine.may_send_ahead("m"))
    assert found == [False, False, True, True]


def test_requests_behind_others_of_their_robot_fill_no_call_that_is_sent_ahead(
    clock: Any, make_request: MakeRequest
) -> None:
    engine = make_engine(max_batch_size=2)
    engine.offer(make_request("busy"), clock.now)
    engine.work(clock.now)
    for _ in range(3):
        engine.offer(make_request("a"), clock.now)
    assert engine.waiting("m") == 3
    assert not engine.may_send_ahead("m")  # a call takes one of them, and a request of another robot may join it
    engine.offer(make_request("b"), clock.now)
    assert engine.may_send_ahead("m")


def test_models_that_share_a_device_send_nothing_ahead(clock: Any, make_request: MakeRequest) -> None:
    config = SchedulingConfig()
    engine = Engine(config, create_scheduler(config), lambda model_id: Capacity(1, 1, device="gpu"))
    for robot in ("a", "b"):
        engine.offer(make_request(robot), clock.now)
    engine.work(clock.now)
    assert not engine.may_send_ahead("m")


def test_a_call_that_was_sent_ahead_begins_when_the_one_before_it_has_ended(
    clock: Any, make_request: MakeRequest
) -> None:
    engine = make_engine()
    for robot in ("a", "b"):
        engine.offer(make_request(robot), clock.now)
    (batch,) = engine.work(clock.now)
    clock.now += 0.009
    engine.ending(batch, clock.now)
    (following,) = engine.work(clock.now)
    clock.now += 0.001
    engine.finished(batch, clock.now)
    assert following.started_at == clock.now
    clock.now += 0.010
    engine.finished(following, clock.now)
    profile = engine.profiles.of("m", "")
    assert profile.typical(1) == pytest.approx(0.010, rel=0.05)


def test_a_replica_is_free_later_where_a_call_ends_later_than_it_was_to(clock: Any, make_request: MakeRequest) -> None:
    engine = make_engine()
    for robot in ("a", "b"):
        engine.offer(make_request(robot), clock.now)
    (batch,) = engine.work(clock.now)
    clock.now += 0.009
    engine.ending(batch, clock.now)
    engine.work(clock.now)
    (slot,) = engine.availability.slots("m")
    assert slot.free_at == clock.now + slot.profile.typical(1)
    clock.now += 0.050
    engine.finished(batch, clock.now)
    (slot,) = engine.availability.slots("m")
    assert slot.free_at == clock.now + slot.profile.typical(1)


BYPASSED = ["deadline_aware", "model_deadline", "priority_tiered", "round_robin"]


@pytest.mark.parametrize("strategy", BYPASSED)
def test_a_request_that_can_bypass_the_queues_never_meets_the_strategy(
    strategy: str, clock: Any, make_request: MakeRequest
) -> None:
    engine = make_engine(strategy=strategy)
    with patch.object(engine.scheduler, "resubmit", side_effect=AssertionError("it was queued")):
        request = make_request("a")
        engine.offer(request, clock.now)
        assert engine.waiting() == engine.waiting(request.model_id) == 1
        (batch,) = engine.work(clock.now)
    assert batch.requests[0].state is RequestState.DISPATCHED
    assert engine.waiting() == 0


@pytest.mark.parametrize("strategy", ["batch_optimized", "slo_aware"])
def test_a_strategy_that_may_defer_meets_every_request(strategy: str, clock: Any, make_request: MakeRequest) -> None:
    engine = make_engine(strategy=strategy)
    with patch.object(engine.scheduler, "resubmit", wraps=engine.scheduler.resubmit) as queued:
        engine.offer(make_request("a"), clock.now)
        engine.work(clock.now)
    assert queued.call_count == 1


def test_a_strategy_derived_from_a_built_in_one_meets_every_request(clock: Any, make_request: MakeRequest) -> None:
    class Mine(DeadlineAwareScheduler):
        pass

    config = SchedulingConfig()
    engine = Engine(config, Mine(config), lambda model_id: Capacity(1, 1))
    with patch.object(engine.scheduler, "resubmit", wraps=engine.scheduler.resubmit) as queued:
        engine.offer(make_request("a"), clock.now)
        engine.work(clock.now)
    assert queued.call_count == 1


def test_of_one_client_the_newer_takes_the_older_ones_place_also_when_both_are_new(
    clock: Any, make_request: MakeRequest
) -> None:
    engine = make_engine()
    older, newer = make_request("a", takes_latest=True), make_request("a", takes_latest=True)
    engine.offer(older, clock.now)
    engine.offer(newer, clock.now)
    assert engine.ended() == [older]
    (batch,) = engine.work(clock.now)
    assert batch.requests == [newer]


def test_more_newcomers_than_a_call_takes_go_in_the_strategys_order(clock: Any, make_request: MakeRequest) -> None:
    engine = make_engine(max_batch_size=2)
    requests = [make_request(client, urgency=urgency) for client, urgency in (("a", 0.0), ("b", 0.5), ("c", 1.0))]
    for request in requests:
        engine.offer(request, clock.now)
    (batch,) = engine.work(clock.now)
    assert batch.requests == [requests[2], requests[1]]


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in ("batch_optimized", "slo_aware")])
def test_an_idle_model_runs_what_waits_at_once_as_one_batch(
    strategy: str, clock: Any, make_request: MakeRequest
) -> None:
    engine = make_engine(max_batch_size=8, strategy=strategy)
    for client in "abc":
        engine.offer(make_request(client), clock.now)
    (batch,) = engine.work(clock.now)
    assert sorted(request.client_id for request in batch.requests) == ["a", "b", "c"]


def test_batch_optimized_asks_to_be_woken_when_its_batch_is_due(clock: Any, make_request: MakeRequest) -> None:
    engine = make_engine(max_batch_size=8, strategy="batch_optimized")
    engine.offer(make_request("a"), clock.now)
    assert engine.work(clock.now) == []
    at = engine.wake_at()
    assert at == pytest.approx(clock.now + 0.01)
    clock.now = at
    assert len(engine.work(clock.now)) == 1


def test_profiles_loaded_while_it_runs_count_at_the_next_decision(clock: Any, make_request: MakeRequest) -> None:
    engine = make_engine(strategy="slo_aware")
    engine.offer(make_request("a"), clock.now)
    before = engine.availability.slots("policy")[0].profile
    engine.profiles.load({"policy": [{"batch_size": 1, "median_ms": 20.0}]})
    engine.work(clock.now)
    assert engine.availability.slots("policy")[0].profile is not before
    assert engine.availability.slots("policy")[0].profile.typical(1) == pytest.approx(0.02)


def test_a_busy_model_asks_for_no_timer_but_its_requests_expiry(clock: Any, make_request: MakeRequest) -> None:
    engine = make_engine()
    assert engine.wake_at() is None
    engine.offer(make_request("a"), clock.now)
    engine.work(clock.now)
    assert engine.wake_at() is None
    engine.offer(make_request("b"), clock.now)
    assert engine.wake_at() == pytest.approx(clock.now + 5)


def test_a_retry_is_the_same_request(clock: Any, make_request: MakeRequest) -> None:
    engine = make_engine()
    request = make_request("a", request_id=7)
    engine.offer(request, clock.now)
    (batch,) = engine.work(clock.now)
    engine.finished(batch, clock.now)
    engine.retry(request, clock.now)
    (again,) = engine.work(clock.now)
    assert again.requests == [request]
    assert request.retry_count == 1


def test_a_request_cannot_be_answered_twice(make_request: MakeRequest) -> None:
    request = make_request("a")
    for state in (RequestState.QUEUED, RequestState.DISPATCHED, RequestState.ANSWERED):
        request.move(state)
    with pytest.raises(IllegalTransition, match="ANSWERED"):
        request.move(RequestState.ANSWERED)


class EngineMachine(RuleBasedStateMachine):
    """Random events; at the end everything that was offered has ended exactly once."""

    def __init__(self) -> None:
        super().__init__()
        self._patches = ExitStack()

    @initialize(
        strategy=st.sampled_from(STRATEGIES),
        overflow=st.sampled_from(["drop_oldest", "reject_newest"]),
        size=st.integers(1, 12),
        inflight=st.integers(1, 3),
        rows=st.integers(1, 4),
    )
    def begin(self, strategy: str, overflow: str, size: int, inflight: int, rows: int) -> None:
        self.now = 1000.0
        self._patches.enter_context(patch.object(time, "monotonic", side_effect=lambda: self.now))
        self.size, self.inflight, self.rows = size, inflight, rows
        self.options: dict[str, Any] = {"max_queue_size": size, "overflow_policy": overflow, "request_ttl_ms": 500}
        self.engine = make_engine(inflight, rows, strategy=strategy, **self.options)
        self.offered: list[InferenceRequest] = []
        self.running: list[Batch] = []
        self.ends: Counter[int] = Counter()
        self.retried = 0

    def teardown(self) -> None:
        with self._patches:  # which ends also where the beginning was cut short
            if not hasattr(self, "engine"):
                return
            self.engine.clear("the end", "end", self.now)
            self._collect()
            while self.running:
                self._finish(self.running.pop(), fails=False)
        assert all(request.over for request in self.offered)
        assert all(self.ends[id(request)] == 1 for request in self.offered)
        assert self.engine.waiting() == 0
        assert self.engine.wake_at() is None
        assert self.engine.running() == []

    def _collect(self) -> None:
        for request in self.engine.ended():
            assert request.state is RequestState.REFUSED
            assert request.refusal is not None
            self.ends[id(request)] += 1

    def _finish(self, batch: Batch, fails: bool) -> None:
        self.engine.finished(batch, time.monotonic())
        for request in batch.requests:
            if fails and request.retry_count < 2:
                self.engine.retry(request, self.now)
                self.retried += 1
                self._collect()
            else:
                request.move(RequestState.ANSWERED)
                self.ends[id(request)] += 1

    @rule(
        client=st.sampled_from("abcd"),
        model=st.sampled_from("mn"),
        latest=st.booleans(),
        priority=st.integers(0, 4),
        urgency=st.floats(0, 1),
        due=st.floats(-0.1, 0.1),
    )
    def offer(self, client: str, model: str, latest: bool, priority: int, urgency: float, due: float) -> None:
        request = InferenceRequest(
            client, model, client.encode(), b"", b"", self.now, urgency, None, due, 50.0, priority, takes_latest=latest
        )
        self.offered.append(request)
        self.engine.offer(request, self.now)
        self._collect()

    @rule()
    def work(self) -> None:
        for batch in self.engine.work(self.now):
            assert 1 <= len(batch.requests) <= self.rows
            assert all(request.state is RequestState.DISPATCHED for request in batch.requests)
            assert {request.model_id for request in batch.requests} == {batch.model_id}
            self.running.append(batch)
        self._collect()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), fails=st.booleans())
    def finish(self, data: Any, fails: bool) -> None:
        self._finish(self.running.pop(data.draw(st.integers(0, len(self.running) - 1))), fails)

    @rule(seconds=st.floats(0, 0.4))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.engine.expire(self.now)
        self._collect()

    @rule(client=st.sampled_from("abcd"))
    def lose_client(self, client: str) -> None:
        self.engine.client_gone(client, self.now)
        self._collect()

    @rule(strategy=st.sampled_from(STRATEGIES))
    def swap(self, strategy: str) -> None:
        config = SchedulingConfig(strategy=strategy, **self.options)
        self.engine.swap(config, create_scheduler(config), self.now)
        self._collect()

    @invariant()
    def limits_hold(self) -> None:
        if not hasattr(self, "engine"):
            return
        assert self.engine.waiting() <= self.size + self.retried
        for model in "mn":
            assert self.engine.inflight(model) <= self.inflight
        waiting = Counter(
            (request.client_id, request.model_id)
            for request in self.offered
            if request.state is RequestState.QUEUED and request.takes_latest
        )
        assert all(count == 1 for count in waiting.values())
        assert sum(request.state is RequestState.QUEUED for request in self.offered) == self.engine.waiting()

    @invariant()
    def after_work_no_wake_up_is_overdue(self) -> None:
        if not hasattr(self, "engine"):
            return
        self.work()
        self.engine.expire(self.now)
        self._collect()
        at = self.engine.wake_at()
        assert at is None or at > self.now


TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
