"""Progress: work is taken or woken for later, never for the same moment, whatever the strategy and the replicas."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import inferential.scheduler.engine
from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest, ModelAwareScheduler, Scheduler, create_scheduler
from inferential.scheduler.chunk_lane import WAKE_S
from inferential.scheduler.engine import Batch, Capacity, Engine
from inferential.scheduler.request import RequestState
from inferential.scheduler.time.profile import Profiles
from inferential.scheduler.time.robot_time import ChunkTime

MakeRequest = Callable[..., InferenceRequest]
STRATEGIES = ["batch_optimized", "deadline_aware", "model_deadline", "priority_tiered", "round_robin", "slo_aware"]
TTL_S = 5.0
RETRY_S = 0.00987654321  # unlike any time that a strategy would name by itself
ODD = [math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-300, 1e300]
"""Numbers that a broken clock, a profile of a stranger or a robot's mistake may give."""


class Plain(Scheduler):
    """A user's scheduler, first come, first served, with the five methods alone."""

    def __init__(self) -> None:
        self._waiting: list[InferenceRequest] = []

    def submit(self, request: InferenceRequest) -> None:
        self._waiting.append(request)

    def next_batch(self) -> list[InferenceRequest]:
        return [self._waiting.pop(0)] if self._waiting else []

    def tick(self) -> int | None:
        return None

    def status(self) -> dict[str, Any]:
        return {}

    def queue_len(self) -> int:
        return len(self._waiting)


class Pairs(Plain):
    """Gives two requests at a time, and says nothing of when."""

    def next_batch(self) -> list[InferenceRequest]:
        return super().next_batch() if len(self._waiting) > 1 else []


class Repeating(Plain):
    """Gives what it has again and again."""

    def next_batch(self) -> list[InferenceRequest]:
        return 2 * self._waiting[:1]


class Stubborn(Plain, ModelAwareScheduler):
    """Says that a request is due now, and gives nothing; has some to give up, and gives none up."""

    def next_batch(self) -> list[InferenceRequest]:
        return []

    def next_batch_for_model(self, model_id: str, limit: int | None = None) -> list[InferenceRequest]:
        return []

    def models(self) -> list[str]:
        return sorted({request.model_id for request in self._waiting})

    def queue_len_for_model(self, model_id: str) -> int:
        return sum(request.model_id == model_id for request in self._waiting)

    def remove(self, request: InferenceRequest) -> bool:
        if request not in self._waiting:
            return False
        self._waiting.remove(request)
        return True

    def infeasible_at(self) -> float | None:
        return -math.inf

    def take_infeasible(self) -> list[tuple[InferenceRequest, str]]:
        return []


USERS: dict[str, Callable[[], Scheduler]] = {
    "plain": Plain,
    "pairs": Pairs,
    "repeating": Repeating,
    "stubborn": Stubborn,
}


def make_engine(scheduler: Scheduler, capacity: Capacity, profiles: Profiles | None = None) -> Engine:
    return Engine(SchedulingConfig(), scheduler, lambda model_id: capacity, profiles)


def test_what_arrives_in_the_moment_of_a_decision_is_decided_on_at_once(clock: Any, make_request: Any) -> None:
    engine = make_engine(Pairs(), Capacity(1, 1))
    engine.offer(make_request("a"), clock.now)
    assert engine.work(clock.now) == []
    assert engine.wake_at() > clock.now
    engine.offer(make_request("b"), clock.now)
    assert engine.wake_at() <= clock.now


@pytest.mark.parametrize("kind", USERS)
def test_a_users_scheduler_that_gives_nothing_is_asked_again_a_little_later(
    kind: str, clock: Any, make_request: MakeRequest
) -> None:
    engine = make_engine(USERS[kind](), Capacity(1, 1, ("0", "1")))
    engine.offer(make_request("a"), clock.now)
    for _ in range(3):
        for batch in engine.work(clock.now):
            engine.finished(batch, clock.now)
            engine.work(clock.now)
        at = engine.wake_at()
        assert at is None or clock.now < at <= clock.now + TTL_S
        clock.now = clock.now if at is None else at


def test_a_request_that_a_users_scheduler_gives_twice_runs_once(clock: Any, make_request: MakeRequest) -> None:
    engine = make_engine(Repeating(), Capacity(1, 2))
    engine.offer(make_request("a"), clock.now)
    (batch,) = engine.work(clock.now)
    assert [request.client_id for request in batch.requests] == ["a"]
    engine.finished(batch, clock.now)
    assert engine.work(clock.now) == []


def test_slo_aware_waits_for_the_latest_start_of_the_replica_that_is_offered_first(
    clock: Any, make_request: MakeRequest
) -> None:
    profiles = Profiles()
    for replica, latencies_ms in (("slow", (80, 98)), ("fast", (76, 84))):
        for rows, latency_ms in enumerate(latencies_ms, 1):
            profiles.of("m", replica).load(rows, latency_ms / 1e3, latency_ms / 1e3)
    scheduler = create_scheduler(SchedulingConfig(strategy="slo_aware"))
    engine = make_engine(scheduler, Capacity(1, 2, ("slow", "fast")), profiles)
    for number in range(40):  # more is asked than calls of one row carry, so that batches are worth a wait
        engine.offer(make_request(f"c{number}", deadline=clock.now + 1.0), clock.now)
        clock.now += 0.02
    while engine.waiting():
        for batch in engine.work(clock.now):
            engine.finished(batch, clock.now, measured=False)
    engine.offer(make_request("alone", deadline=clock.now + 0.12), clock.now)
    assert engine.work(clock.now) == []
    assert engine.wake_at() == pytest.approx(clock.now + 0.12 - 0.084 - WAKE_S)
    clock.now += 0.12 - 0.098  # past the latest start of the slow one
    assert engine.work(clock.now) == []
    assert engine.wake_at() == pytest.approx(clock.now + 0.098 - 0.084 - WAKE_S)


class ProgressMachine(RuleBasedStateMachine):
    """Random fleets, replicas and deadlines; all that is due at a moment is done in one `work`."""

    def __init__(self) -> None:
        super().__init__()
        self._patches = ExitStack()

    @initialize(
        strategy=st.sampled_from([*STRATEGIES, *USERS, *["slo_aware"] * 6]),
        replicas=st.integers(1, 4),
        inflight=st.integers(1, 2),
        rows=st.integers(1, 4),
        shared=st.booleans(),
        data=st.data(),
    )
    def begin(self, strategy: str, replicas: int, inflight: int, rows: int, shared: bool, data: Any) -> None:
        self.now = 1000.0
        self._patches.enter_context(patch.object(time, "monotonic", side_effect=lambda: self.now))
        self._patches.enter_context(patch.object(inferential.scheduler.engine, "RETRY_S", RETRY_S))
        self.strategy = strategy
        config = SchedulingConfig(request_ttl_ms=TTL_S * 1e3)
        if strategy in STRATEGIES:
            config = config.model_copy(update={"strategy": strategy})
        scheduler = create_scheduler(config) if strategy in STRATEGIES else USERS[strategy]()
        self.names = tuple(str(number) for number in range(replicas))
        self.capacity = {model: Capacity(inflight, rows, self.names, "gpu" if shared else None) for model in "mn"}
        profiles = Profiles()
        for model in "mn":
            for name in self.names:
                total_ms = 0.0
                for size in data.draw(st.sampled_from([(), (1,), (rows,), tuple(range(1, rows + 1))])):
                    total_ms += data.draw(st.floats(0.1, 80.0))
                    high_ms = total_ms * data.draw(st.one_of(st.floats(1, 1.5), st.sampled_from(ODD)))
                    profiles.of(model, name).load(size, total_ms / 1e3, high_ms / 1e3)
                if data.draw(st.integers(0, 3)) == 0:
                    profiles.of(model, name).load(rows, data.draw(st.sampled_from(ODD)), 0.1)
        self.profiles = profiles
        self.engine = Engine(config, scheduler, self.capacity.__getitem__, profiles)
        self.offered: list[InferenceRequest] = []
        self.running: list[Batch] = []
        self.settled = True

    def teardown(self) -> None:
        self._patches.close()  # also of a machine whose beginning was cut short

    def _idle(self, model: str) -> bool:
        """Whether all replicas of a model, and its device, are free."""
        if self.capacity[model].device is not None:
            return not self.running
        return not any(batch.model_id == model for batch in self.running)

    @rule(
        client=st.sampled_from("abcdef"),
        model=st.sampled_from("mn"),
        latest=st.booleans(),
        refuse=st.booleans(),
        priority=st.integers(0, 3),
        urgency=st.sampled_from([0.0, 1.0, *ODD]),
        time_ms=st.one_of(st.floats(-50, 400), st.sampled_from([0.0, 1e-9, 1e9, *ODD])),
        chunk=st.one_of(
            st.none(),
            st.tuples(
                st.one_of(st.floats(-0.1, 0.4), st.sampled_from(ODD)),
                st.sampled_from([-1.0, 0.2, 0.5, 1e9, *ODD]),
                st.booleans(),
                st.sampled_from([0.0, 0.03, 0.2, 1e9, *ODD]),
                st.sampled_from([0.5, 0.5, *ODD]),
                st.sampled_from([0.5, *ODD]),
            ),
        ),
    )
    def offer(
        self,
        client: str,
        model: str,
        latest: bool,
        refuse: bool,
        priority: int,
        urgency: float,
        time_ms: float,
        chunk: tuple[float, float, bool, float, float, float] | None,
    ) -> None:
        made = None
        if chunk is not None:
            left_s, covers_s, renews, lead_s, lasts_s, most_s = chunk
            made = ChunkTime(self.now + left_s, self.now + covers_s, lasts_s, most_s, renews, lead_s)
        request = InferenceRequest(
            client,
            model,
            b"",
            b"",
            b"",
            self.now,
            urgency,
            None,
            0.1,
            max(time_ms, 0.001),
            priority,
            takes_latest=latest,
            late="refuse" if refuse else "serve",
            deadline=self.now + time_ms / 1e3,
            chunk=made,
        )
        self.offered.append(request)
        self.engine.offer(request, self.now)
        self.settled = False

    @rule()
    def work(self) -> None:
        self._work()

    def _work(self) -> bool:
        batches = self.engine.work(self.now)
        self.running += batches
        ended = self.engine.ended()
        outdated = self.engine.outdated()
        self.settled = True
        return bool(batches or ended or outdated)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), fails=st.booleans(), measured=st.booleans())
    def finish(self, data: Any, fails: bool, measured: bool) -> None:
        batch = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.engine.finished(batch, self.now, measured=measured)
        for request in batch.requests:
            if fails and not request.retry_count:
                self.engine.retry(request, self.now)
            else:
                request.move(RequestState.ANSWERED)
        self.settled = False

    @rule(model=st.sampled_from("mn"), rows=st.integers(1, 4), latency_s=st.sampled_from(ODD))
    def a_clock_jumps(self, model: str, rows: int, latency_s: float) -> None:
        self.profiles.of(model, self.names[0]).note(rows, latency_s)
        self.settled = False

    @rule(seconds=st.one_of(st.floats(0, 0.3), st.floats(0, 1e-6)))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.settled = False

    @rule(
        count=st.integers(1, 30),
        gap_ms=st.floats(0.1, 30.0),
        time_ms=st.floats(10.0, 300.0),
        call_ms=st.floats(1.0, 100.0),
        refuse=st.booleans(),
        with_chunks=st.booleans(),
    )
    def fleet_asks(
        self, count: int, gap_ms: float, time_ms: float, call_ms: float, refuse: bool, with_chunks: bool
    ) -> None:
        """Clients ask one after the other while calls run; so demand grows, and batches are worth a wait."""
        for number in range(count):
            chunk = (time_ms / 1e3, 0.5, refuse, 0.03, 0.5, 0.5) if with_chunks else None
            self.offer("abcdefghijkl"[number % 12], "m", True, refuse, 1, 0.0, time_ms, chunk)
            self.all_that_is_due_was_done()
            until = self.now + gap_ms / 1e3
            while (at := self.engine.wake_at()) is not None and at <= until:
                assert at > self.now
                self.now = at
                self.all_that_is_due_was_done()
            self.now = until
            for batch in [batch for batch in self.running if self.now - batch.started_at > call_ms / 1e3]:
                self.running.remove(batch)
                self.engine.finished(batch, self.now, measured=False)
                for request in batch.requests:
                    request.move(RequestState.ANSWERED)

    @rule()
    def sleep_until_woken(self) -> None:
        """As a server does that hears nothing: it ends with an idle replica for which nothing waits."""
        self._work()
        began, wakes, steps = self.now, 0, 0
        while (at := self.engine.wake_at()) is not None:
            assert at > self.now
            self.now = at
            self.engine.expire(self.now)
            wakes = 0 if self._work() else wakes + 1
            steps += 1
            # A built-in strategy knows when it will give something; a user's own is asked every RETRY_S.
            assert wakes < (10 if self.strategy in STRATEGIES else TTL_S / RETRY_S + 20)
            if steps > 40 and self.strategy in STRATEGIES:
                break
        for model in "mn":
            assert not self.engine.waiting(model) or not self._idle(model) or at is not None
        assert self.now - began <= TTL_S + 1.0

    @invariant()
    def all_that_is_due_was_done(self) -> None:
        if not hasattr(self, "engine"):
            return
        self._work()
        at = self.engine.wake_at()
        assert at is None or at > self.now
        for model in "mn":
            if self.engine.waiting(model) and self._idle(model):
                assert at is not None
                assert at <= self.now + TTL_S + RETRY_S
        if self.strategy in STRATEGIES:  # they agree with themselves; the engine need not stop them from spinning
            self.engine.expire(self.now)
            self._work()
            assert self.engine.wake_at() != self.now + RETRY_S


TestProgressMachine = ProgressMachine.TestCase
TestProgressMachine.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
