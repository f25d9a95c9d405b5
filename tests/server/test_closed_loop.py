"""Robots beside clients that ask again as soon as they are answered: one model, in made-up time."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable

import pytest

from inferential.config import InferentialConfig, ResponseTrackingConfig
from inferential.dispatch.base import DispatchResult
from inferential.metrics import MetricsCollector
from inferential.metrics.recorder import Recorder
from inferential.scheduler import create_scheduler
from inferential.scheduler.engine import Engine
from inferential.scheduler.request import ANSWERED, InferenceRequest
from inferential.scheduler.running import Batch, Capacity
from inferential.scheduler.time.fair_share import FairShares
from inferential.server.accounting import Accounting
from inferential.server.ingress import IncomingRequest
from inferential.tracking.fleet import Fleet

CALL_S, SWEEP_S = 0.005, 0.25


class World:
    """A model of one replica, the parts that decide who is next, and clients that wait for their answers.

    Attributes:
        waited: by client, how long each of its requests waited for its call, in seconds.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: int = 1, strategy: str = "deadline_aware") -> None:
        self.now = 100.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        config = InferentialConfig().scheduling
        config.strategy = strategy
        self.engine = Engine(config, create_scheduler(config), lambda model_id: Capacity(1, rows))
        for size in range(1, rows + 1):
            self.engine.profiles.of("m").load(size, CALL_S, CALL_S)
        self.shares = FairShares(self.engine.availability)
        self.accounting = Accounting(
            Fleet(ResponseTrackingConfig()),
            Recorder(MetricsCollector()),
            self.shares,
            self.engine,
            lambda request: 1.0,
            self.engine.client_connected,
        )
        self.waited: dict[str, list[float]] = {}
        self._next: dict[str, Callable[[InferenceRequest], float]] = {}  # when a client asks again
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._connections: dict[str, int] = {}
        self._at(self.now, self._sweep)

    def robot(self, name: str, period_s: float, phase_s: float, jitter: random.Random | None = None) -> None:
        """A client that asks at a rate, or as soon as it is answered where that takes longer."""
        began = self.now + phase_s

        def following(request: InferenceRequest) -> float:
            due = began + period_s * (round((request.received_at - began) / period_s) + 1)
            return max(due + (jitter.uniform(-5e-4, 5e-4) if jitter else 0.0), self.now)

        self._next[name] = following
        self._at(began, lambda: self._ask(name))

    def closed(self, name: str, think_s: float = 5e-4) -> None:
        """A client that asks again as soon as it is answered."""
        self._next[name] = lambda request: self.now + think_s
        self._at(self.now, lambda: self._ask(name))

    def passing(self, every_s: float) -> None:
        """Clients that ask once each, one after the other, by connections of their own, which end 50 ms later."""

        def ask() -> None:
            name = f"passing-{next(self._order)}"
            self._next[name] = lambda request: math.inf
            self._ask(name)
            connection = self._connections[name]
            self._at(self.now + 0.05, lambda: self.engine.connection_gone(connection, self.now))
            self._at(self.now + every_s, ask)

        self._at(self.now, ask)

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
            self._work()
        self.now = until

    def per_second(self, prefix: str, seconds: float) -> float:
        return sum(len(waited) for name, waited in self.waited.items() if name.startswith(prefix)) / seconds

    def waits(self, prefix: str) -> list[float]:
        return sorted(s for name, waited in self.waited.items() if name.startswith(prefix) for s in waited)

    def _at(self, at: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at, next(self._order), happen))

    def _sweep(self) -> None:
        for _ in self.accounting.sweep_steps(self.now):
            pass
        for _ in self.accounting.share_steps(self.now, lambda identity: False):
            pass
        self._at(self.now + SWEEP_S, self._sweep)

    def _ask(self, name: str) -> None:
        request = InferenceRequest(name, "m", name.encode(), b"", b"", self.now, 0.0, None, 0.0, 50.0, 1)
        request.connection = self._connections.setdefault(name, len(self._connections) + 1)
        incoming = IncomingRequest(request, 0.0, None, None)
        if self.engine.can_bypass(request) and self.accounting.defer(incoming):
            self.engine.stage(request)
            return
        self.accounting.arrived(incoming)
        self.engine.offer(request, self.now)

    def _work(self) -> None:
        batches = self.engine.take_bypassed(self.now)
        if self.engine.waiting():
            batches += self.accounting.engine.work(self.now)
        for batch in batches:
            self.accounting.dispatched(batch, 0)
            self._at(self.now + CALL_S, lambda batch=batch: self._end(batch))
        if (at := self.engine.wake_at()) is not None:
            self._at(max(at, self.now), lambda: self.engine.expire(self.now))

    def _end(self, batch: Batch) -> None:
        self.engine.finished(batch, self.now)
        for request in batch.requests:
            request.move(ANSWERED)
            request.sent_at, request.inference_ms = self.now, CALL_S * 1e3
            request.dispatched_at = batch.started_at
            self.waited.setdefault(request.client_id, []).append(batch.started_at - request.received_at)
            self._at(self._next[request.client_id](request), lambda name=request.client_id: self._ask(name))
        self.accounting.answered([DispatchResult(one, CALL_S * 1e3, "", b"", b"", None) for one in batch.requests])


@pytest.mark.parametrize("clients", [1, 2, 10])
@pytest.mark.parametrize("strategy", ["deadline_aware", "model_deadline"])
def test_robots_wait_for_the_call_that_runs_and_for_no_client_that_asks_as_soon_as_it_is_answered(
    strategy: str, clients: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch, strategy=strategy)
    for number in range(10):  # never two at once
        world.robot(f"robot-{number}", 0.2, 0.02 * number + 0.001 * number)
    for number in range(clients):
        world.closed(f"closed-{number}")
    world.run(3.0)  # until their cadences are learned
    world.waited.clear()
    world.run(4.0)
    assert max(world.waits("robot")) <= CALL_S
    assert len(world.waits("robot")) == 200
    assert world.per_second("closed", 4.0) >= 0.9 * min(clients / (CALL_S + 5e-4), 1 / CALL_S - 50) - 10


def test_robots_go_into_the_next_batch_before_clients_that_ask_as_soon_as_they_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, rows=8)
    for number in range(10):
        world.robot(f"robot-{number}", 0.2, 0.021 * number)
    for number in range(50):
        world.closed(f"closed-{number}")
    world.run(3.0)
    world.waited.clear()
    world.run(2.0)
    assert max(world.waits("robot")) <= CALL_S
    assert world.per_second("closed", 2.0) >= 1500  # of 1,600 rows a second the robots take 50: none is left empty


@pytest.mark.parametrize("per_second", [100, 400])
def test_robots_wait_for_no_clients_that_ask_once_and_never_again(
    per_second: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch)
    for number in range(10):
        world.robot(f"robot-{number}", 0.2, 0.021 * number)
    world.run(2.0)
    world.passing(1 / per_second)
    world.run(3.0)  # until they are found
    world.waited.clear()
    world.run(4.0)
    waits = world.waits("robot")
    assert len(waits) == 200
    assert waits[150] <= 1e-3
    assert waits[-1] <= CALL_S
    assert world.per_second("passing", 4.0) >= 50


def test_a_robot_that_comes_where_others_ask_once_is_served_as_they_are_and_then_as_a_robot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    world.passing(0.01)
    world.run(4.0)
    world.robot("late", 0.2, 0.0)
    world.run(4.0)
    assert len(world.waited["late"]) >= 18
    assert max(world.waited["late"][5:]) <= 2 * CALL_S


def test_robots_that_ask_for_more_than_is_served_go_after_those_that_do_not_and_are_served_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng, world = random.Random(1), World(monkeypatch)
    for number in range(30):
        world.robot(f"fast-{number}", 0.1, rng.uniform(0, 0.1), rng)
    for number in range(10):
        world.robot(f"slow-{number}", 1.0, rng.uniform(0, 1.0), rng)
    world.run(3.0)
    world.robot("fast-late", 0.1, 0.0, rng)  # served at once at first, as it is not known yet
    world.run(3.0)
    world.waited.clear()
    world.run(5.0)
    counts = [len(waited) for name, waited in world.waited.items() if name.startswith("fast")]
    assert max(counts) <= min(counts) + 2
    assert max(world.waits("slow")) <= 3 * CALL_S  # of each other, and the call that runs
