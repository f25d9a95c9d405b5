"""No robot is kept out: all kinds of them on one slow accelerator, asked for more than it carries, in made-up time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest, create_scheduler
from inferential.scheduler.engine import Batch, Capacity, Engine
from inferential.scheduler.standings import PATIENCE_S
from inferential.tracking import CadenceTracker

MakeRequest = Callable[..., InferenceRequest]
STRATEGIES = ["batch_optimized", "deadline_aware", "model_deadline", "priority_tiered", "round_robin", "slo_aware"]
CALL_S = 1.2
STEP_S = 0.02
LASTS_S = 120.0


@dataclass
class Robot:
    """Asks when it has no request open, and anew each `every_s` while it waits; its answers and the gaps between."""

    name: str
    every_s: float = float("inf")
    renews: bool = False
    fields: dict[str, Any] = field(default_factory=dict)
    open: dict[InferenceRequest, None] = field(default_factory=dict)
    asked_at: float = float("-inf")
    answered_at: list[float] = field(default_factory=list)

    def longest_s(self, begin: float, end: float) -> float:
        times = [begin, *self.answered_at, end]
        return max(after - before for before, after in pairwise(times))


PLAIN = Robot("plain")
KINDS = {
    "renewing": Robot("renewing", 0.3, renews=True),
    "50 Hz": Robot("50 Hz", 0.02),
    "large": Robot("large", fields={"payload": bytes(100_000)}),
    "budget": Robot("budget", fields={"latency_budget_ms": 200.0}),
}
FLEETS = {
    **{f"plain and {kind}": ("plain", kind) for kind in KINDS},
    "all five": ("plain", *KINDS),
    "two that renew and a plain one": ("renewing", "plain", "renewing"),
    "two at 50 Hz and a plain one": ("50 Hz", "plain", "50 Hz"),
    "a plain one whose turn comes less often than requests live": ("50 Hz",) * 5 + ("plain",),
}


class World:
    """One engine, one replica, and the robots."""

    def __init__(self, strategy: str, kinds: tuple[str, ...], clock: Any, make_request: MakeRequest) -> None:
        config = SchedulingConfig(strategy=strategy)
        config.batch_optimized.max_batch_size = 1
        self.engine = Engine(config, create_scheduler(config), lambda model_id: Capacity(1, 1))
        known = {"plain": PLAIN, **KINDS}
        self.robots = [
            Robot(f"{kind} {n}", known[kind].every_s, known[kind].renews, known[kind].fields)
            for n, kind in enumerate(kinds)
        ]
        self._by_name = {robot.name: robot for robot in self.robots}
        self._clock, self._make = clock, make_request
        self._cadence = CadenceTracker()
        self._running: list[tuple[float, Batch]] = []

    def run(self) -> None:
        begin = self._clock.now
        for step in range(round(LASTS_S / STEP_S)):
            now = self._clock.now = begin + step * STEP_S
            for ends_at, batch in list(self._running):
                if ends_at <= now:
                    self._running.remove((ends_at, batch))
                    self._answer(batch, now)
            for robot in self.robots:
                if not robot.open or now - robot.asked_at >= robot.every_s - 1e-9:
                    self._ask(robot, now)
            self._work(now)
        self.lasted = begin, self._clock.now

    def _ask(self, robot: Robot, now: float) -> None:
        request = self._make(robot.name, takes_latest=True, time_until_next=0.0, **robot.fields)
        if robot.renews and self.engine.supersedes(request):
            self._cadence.on_renewal(robot.name, "m", now)
        else:
            self._cadence.on_request(robot.name, "m", now)
        request.time_until_next = self._cadence.learned_cadence(robot.name, "m") or 0.0
        robot.asked_at = now
        robot.open[request] = None
        self.engine.offer(request, now)

    def _work(self, now: float) -> None:
        self.engine.expire(now)
        for batch in self.engine.work(now):
            self._running.append((now + CALL_S, batch))
        for request in self.engine.ended():
            self._by_name[request.client_id].open.pop(request, None)

    def _answer(self, batch: Batch, now: float) -> None:
        self.engine.finished(batch, now)
        for request in batch.requests:
            robot = self._by_name[request.client_id]
            robot.open.pop(request, None)
            robot.answered_at.append(now)


@pytest.mark.parametrize("fleet", FLEETS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_robot_is_kept_out_by_others_that_are_no_more_important(
    strategy: str, fleet: str, clock: Any, make_request: MakeRequest
) -> None:
    kinds = FLEETS[fleet]
    world = World(strategy, kinds, clock, make_request)
    world.run()
    # The patience, one call of each other that has waited as long, the one that runs when it asks, and its own.
    bound_s = PATIENCE_S + (len(kinds) + 1) * CALL_S + 4 * STEP_S
    longest_s = {robot.name: robot.longest_s(*world.lasted) for robot in world.robots}
    assert max(longest_s.values()) <= bound_s, longest_s
