"""Clients that flood a model are served where none of the others is kept waiting by it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest, create_scheduler
from inferential.scheduler.engine import Batch, Capacity, Engine
from inferential.scheduler.floods import PATIENCE_S

STRATEGIES = ["batch_optimized", "deadline_aware", "model_deadline", "priority_tiered", "round_robin", "slo_aware"]
CALL_S, STEP_S = 0.005, 0.0005
MakeRequest = Callable[..., InferenceRequest]


class Served:
    """A model that takes `CALL_S`, robots that ask every `period_s`, and clients that flood it.

    Attributes:
        waited: how long each request of a robot waited for its call.
        flooded: when each call of a client that floods began.
    """

    def __init__(self, clock: Any, make_request: MakeRequest, capacity: Capacity, **options: Any) -> None:
        config = SchedulingConfig(**options)
        config.batch_optimized.max_wait_ms = 0.01
        self._clock, self._make = clock, make_request
        self.engine = Engine(config, create_scheduler(config), lambda model_id: capacity)
        for replica in capacity.replicas:
            self.engine.profiles.of("m", replica).load(1, CALL_S, CALL_S)
        self.waited: list[float] = []
        self.flooded: list[float] = []
        self._running: list[Batch] = []

    def run(self, asks_at: list[float], period_s: float, flooders: int, until: float) -> None:
        clock, engine = self._clock, self.engine
        flood = [0] * flooders
        while clock.now < until:
            for batch in [one for one in self._running if one.started_at + CALL_S <= clock.now + 1e-9]:
                self._running.remove(batch)
                for request in batch.requests:
                    if request.floods:
                        flood[int(request.client_id)] -= 1
                engine.finished(batch, clock.now)
            while asks_at and asks_at[0] <= clock.now + 1e-9:
                robot = self._make(f"robot-{asks_at.pop(0)}", time_until_next=period_s, connection=1000)
                robot.client_id = "robot"
                engine.expect(robot)
                engine.offer(robot, clock.now)
            for number, waiting in enumerate(flood):
                for _ in range(waiting, 3):
                    flood[number] += 1
                    engine.offer(self._make(str(number), pace_s=0.001, connection=number + 1), clock.now)
            self._begin(engine.work(clock.now))
            clock.now += STEP_S
            if (at := engine.wake_at()) is not None and at <= clock.now:
                engine.expire(clock.now)

    def _begin(self, batches: list[Batch]) -> None:
        self._running += batches
        for request in [request for batch in batches for request in batch.requests]:
            if request.floods:
                self.flooded.append(self._clock.now)
            else:
                self.waited.append(self._clock.now - request.received_at)


def asking(first: float, every_s: float, until: float) -> list[float]:
    return [first + number * every_s for number in range(int((until - first) / every_s))]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("flooders", [1, 10])
def test_calls_of_those_who_flood_are_over_before_others_come(
    strategy: str, flooders: int, clock: Any, make_request: MakeRequest
) -> None:
    served = Served(clock, make_request, Capacity(1, 1), strategy=strategy)
    until = clock.now + 2.0
    served.run(asking(clock.now, 0.02, until), 0.02, flooders, until)
    served.waited = served.waited[15:]  # before, their cadence is learned
    assert max(served.waited) <= 2 * STEP_S
    assert len(served.flooded) >= 2 * len(served.waited)  # of four calls that fit, the robots take one


def test_of_a_model_that_takes_several_at_once_those_who_flood_share_a_call(
    clock: Any, make_request: MakeRequest
) -> None:
    served = Served(clock, make_request, Capacity(1, 8), strategy="deadline_aware")
    until = clock.now + 1.0
    served.run(asking(clock.now, 0.02, until), 0.02, 10, until)
    assert max(served.waited[15:]) <= 2 * STEP_S
    assert len(served.flooded) >= 8 * len(served.waited)


def test_where_others_leave_no_room_one_that_floods_runs_once_in_a_while(clock: Any, make_request: MakeRequest) -> None:
    served = Served(clock, make_request, Capacity(1, 1))
    until = clock.now + 10 * PATIENCE_S
    served.run(asking(clock.now, 0.0055, until), 0.0055, 3, until)
    assert 8 <= len(served.flooded) <= 12


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_where_others_always_wait_one_that_floods_runs_all_the_same(
    strategy: str, clock: Any, make_request: MakeRequest
) -> None:
    served = Served(clock, make_request, Capacity(1, 1), strategy=strategy)
    asks_at = asking(clock.now, 0.004, clock.now + 9.0)  # more than the model does
    served.run(asks_at, 0.004, 3, clock.now + 1.0)  # until it is known when the next is expected
    served.flooded.clear()
    served.run(asks_at, 0.004, 3, clock.now + 8.0)
    assert 2 <= len(served.flooded) <= 8 / PATIENCE_S + 1


def test_with_a_replica_left_for_others_those_who_flood_need_not_wait(clock: Any, make_request: MakeRequest) -> None:
    served = Served(clock, make_request, Capacity(1, 1, ("a", "b", "c")))
    until = clock.now + 1.0
    served.run(asking(clock.now, 0.0055, until), 0.0055, 1, until)
    assert max(served.waited) <= STEP_S
    assert len(served.flooded) >= 100


def test_others_that_keep_to_no_cadence_are_not_waited_for(clock: Any, make_request: MakeRequest) -> None:
    rng, served = random.Random(1), Served(clock, make_request, Capacity(1, 1))
    until = clock.now + 2.0
    served.run(sorted(rng.uniform(clock.now, until) for _ in range(20)), 0.1, 1, until)
    assert len(served.flooded) >= 200


def test_what_was_expected_of_a_robot_that_is_gone_holds_up_no_client(clock: Any, make_request: MakeRequest) -> None:
    served = Served(clock, make_request, Capacity(1, 1))
    served.run(asking(clock.now, 0.02, clock.now + 1.0), 0.02, 1, clock.now + 1.0)
    served.flooded.clear()
    served.run([], 0.02, 1, clock.now + 1.0)
    assert len(served.flooded) >= 150


def test_another_strategy_serves_what_waits_for_a_moment(clock: Any, make_request: MakeRequest) -> None:
    served = Served(clock, make_request, Capacity(1, 1))
    served.run(asking(clock.now, 0.0055, clock.now + 0.2), 0.0055, 1, clock.now + 0.2)
    config = SchedulingConfig(strategy="round_robin")
    served.engine.swap(config, create_scheduler(config), clock.now)
    served.flooded.clear()
    served.run([], 0.0055, 1, clock.now + 1.0)
    assert served.flooded
