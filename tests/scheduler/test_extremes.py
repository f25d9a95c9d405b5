"""Extremes: whatever replicas, rates, horizons and priorities are, time goes on and no client is abandoned.

Robots that play chunks and robots that ask and wait share a model, all from the same moment on. Some state no control
steps, some state actions that they do not have, some send nothing new when they are asked to. Replicas differ by a
hundredfold, and from some moment on all calls take ten times as long, or a tenth.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import time
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from hypothesis import example, given, settings
from hypothesis import strategies as st

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest, create_scheduler
from inferential.scheduler.engine import Batch, Capacity, Engine
from inferential.scheduler.request import RefusalKind, RequestState
from inferential.scheduler.time.robot_time import ChunkTime

STRATEGIES = ["deadline_aware", "batch_optimized", "priority_tiered", "round_robin", *["slo_aware"] * 4]
BEGIN = 1000.0
SECONDS = 6.0
MOST_EVENTS = 6_000
AT_ONCE = 2_000
"""Events of one moment, beyond which time stands."""


@dataclass
class Robot:
    """One client; it asks again at a step after it was answered, or beside what waits where it `is_eager`."""

    name: str
    chance: random.Random
    plays_chunks: bool = field(init=False)

    def __post_init__(self) -> None:
        pick = self.chance.choice
        self.plays_chunks = pick([True, True, False])
        self.step_s = 1 / pick([1, 20, 50, 1000])
        self.horizon = pick([1, 1, 12, 50])
        self.priority = pick([1, 1, 0, 30, 10**9, -5])
        self.urgency = pick([0.0, 0.0, 1.0, -1e9, 1e9, math.nan])
        self.acknowledges = pick([True, False])
        self.claims = pick([None, None, 0, 1000, 2**32 - 1])
        self.renews = pick([True, False])
        self.answers_when_asked = pick([True, False])
        self.late = pick(["serve", "serve", "refuse"])
        self.budget_ms = pick([1.0, 50.0, 1000.0, 1e9])
        self.is_eager = pick([True, False])
        self.left = 0

    @property
    def chunk_s(self) -> float:
        return self.horizon * self.step_s

    def ask(self, now: float) -> InferenceRequest:
        steps = self.left if self.claims is None else self.claims
        chunk = None
        most_s = max((self.horizon - steps) * self.step_s, 0.0)
        if self.plays_chunks and (self.renews or self.acknowledges):
            goes_on = int(self.name) % 3 == 2  # where it stands, rather than by time
            chunk = ChunkTime(
                now + steps * self.step_s,
                math.inf if goes_on else now + self.chunk_s,
                self.chunk_s,
                most_s if goes_on else math.inf,
                renews=self.renews,
                lead_s=self.step_s + 0.002 if self.renews else 0.0,
                steps_at=now - 0.002,
                step_s=self.step_s if self.acknowledges else 0.0,
            )
        elif self.plays_chunks:
            chunk = ChunkTime(now + steps * self.step_s, math.inf, self.chunk_s, most_s)
        fields: dict[str, Any] = {"chunk": chunk, "takes_latest": True, "late": self.late}
        return InferenceRequest(
            self.name,
            "m",
            b"",
            b"",
            b"",
            now,
            self.urgency,
            None,
            self.step_s,
            self.budget_ms,
            self.priority,
            **fields,
        )


class World:
    """A fleet and the engine, in virtual time."""

    def __init__(self, seed: int, strategy: str, clock: Any) -> None:
        self.chance = random.Random(seed)
        pick = self.chance.choice
        self.clock = clock
        self.config = SchedulingConfig(strategy=strategy)
        self.config.slo_aware.starvation_ms = pick([1e-3, 100, 1000])
        self.robots = {name: Robot(name, self.chance) for name in map(str, range(pick([1, 2, 5, 12, 30])))}
        self.speeds = [pick([1.0, 1.0, 0.1, 10.0]) for _ in range(pick([1, 1, 2, 4]))]
        self.rows = pick([1, 1, 4, 8])
        self.call_s = pick([0.002, 0.02, 0.06])
        self.row_s = self.call_s * pick([0, 0.1, 1])
        self.changes_at, self.factor = pick([math.inf, BEGIN + 2]), pick([10, 0.1])
        capacity = Capacity(1, self.rows, tuple(map(str, range(len(self.speeds)))))
        self.engine = Engine(self.config, create_scheduler(self.config), lambda model_id: capacity)
        self.waits: dict[str, float] = {}
        self.longest_s = 0.0
        self._serials = itertools.count()
        self._events: list[tuple[float, int, Robot | Batch]] = []

    def run(self) -> None:
        for robot in self.robots.values():
            self._later(BEGIN, robot)
        at_once, wakes_at = 0, math.inf
        for _ in range(MOST_EVENTS):
            at = min(self._events[0][0], wakes_at)
            if at > BEGIN + SECONDS:
                break
            at_once = at_once + 1 if at <= self.clock.now else 0
            assert at_once < AT_ONCE
            self.clock.now = max(at, self.clock.now)
            if self._events[0][0] <= at:
                self._happens(heapq.heappop(self._events)[2])
            else:
                self.engine.expire(at)
            wakes_at = self._work()
        waiting = [self.clock.now - since for name, since in self.waits.items() if self.robots[name].late == "serve"]
        self.longest_s = max([self.longest_s, *waiting])

    def longest_allowed_s(self) -> float:
        """Returns the stated bound: turns come, and each client whose turn has come takes a call, one of sixteen."""
        slowest_s = (self.call_s + self.row_s * self.rows) / min(self.speeds) * max(1, self.factor)
        turn_s = max(robot.chunk_s for robot in self.robots.values()) + 2 * self.config.slo_aware.starvation_ms / 1e3
        share = 16 if self.rows == 1 else 1
        return turn_s + 2 * (len(self.robots) + 2) * share * slowest_s + 0.1

    def _later(self, at: float, what: Robot | Batch) -> None:
        heapq.heappush(self._events, (at, next(self._serials), what))

    def _happens(self, what: Robot | Batch) -> None:
        now = self.clock.now
        if isinstance(what, Robot):
            what.left = max(what.left - 1, 0)
            self._later(now + max(what.step_s, 0.004), what)
            if what.name not in self.waits or (what.is_eager and self.chance.random() < 0.2):
                self._ask(what)
            return
        self.engine.finished(what, now)
        for request in what.requests:
            request.move(RequestState.ANSWERED)
            robot = self.robots[request.client_id]
            robot.left = robot.horizon
            self.longest_s = max(self.longest_s, now - self.waits.pop(robot.name, now))

    def _ask(self, robot: Robot) -> None:
        self.waits.setdefault(robot.name, self.clock.now)
        self.engine.offer(robot.ask(self.clock.now), self.clock.now)

    def _work(self) -> float:
        now = self.clock.now
        for batch in self.engine.work(now):
            rows = len(batch.requests)
            takes_s = (self.call_s + self.row_s * rows) / self.speeds[int(batch.replica)]
            self._later(now + takes_s * (self.factor if now > self.changes_at else 1), batch)
        for request in self.engine.ended():
            if request.late == "refuse" and request.refusal is not None and request.refusal.kind is RefusalKind.EXPIRED:
                self.waits.pop(request.client_id, None)  # as it wished
        asked = [self.robots[request.client_id] for request in self.engine.outdated()]
        answering = [robot for robot in asked if robot.answers_when_asked]
        for robot in answering:
            self._ask(robot)
        if answering:
            return now  # after an event `work` follows
        wakes_at = self.engine.wake_at()
        assert wakes_at is None or wakes_at > now
        return math.inf if wakes_at is None else wakes_at


@given(seed=st.integers(0, 2**32 - 1), strategy=st.sampled_from(STRATEGIES))
@example(seed=16352, strategy="slo_aware")  # a call takes as long as a chunk lasts: no observation is new enough
@example(seed=16477, strategy="slo_aware")  # a robot is refused at once for seconds, as it asks to be
@settings(max_examples=25, deadline=None)
def test_time_goes_on_and_no_client_is_abandoned(seed: int, strategy: str) -> None:
    clock = type("Clock", (), {"now": BEGIN})()
    with patch.object(time, "monotonic", lambda: clock.now):
        world = World(seed, strategy, clock)
        world.run()
    if strategy == "slo_aware":
        assert world.longest_s <= world.longest_allowed_s()
