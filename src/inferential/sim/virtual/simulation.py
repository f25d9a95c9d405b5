"""Runs a strategy on a fleet in virtual time: the server's engine, driven by a heap of events.

Open arrivals come from `virtual.generate`; robots in closed loop (`virtual.closed`), and clients that wait for each
answer (`virtual.asked`), ask as they are answered.
`virtual.measures` and `virtual.starvation` sum a run up.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import create_scheduler
from inferential.scheduler.engine import Batch, Capacity, Engine
from inferential.scheduler.options import with_options
from inferential.scheduler.request import QUEUED, InferenceRequest, RequestState
from inferential.scheduler.time.execution_horizon import horizon_of_answer
from inferential.scheduler.time.robot_time import ChunkTime
from inferential.sim.virtual.chunk_times import chunk_time
from inferential.sim.virtual.clock import BEGIN_S, Clock, virtual_time
from inferential.sim.virtual.closed import ANSWERED, OUTDATED, Observation, RobotLoop
from inferential.sim.virtual.mirror import Mirror, PacesRobots, SeesRobots
from inferential.sim.virtual.world import Arrival, Call, ChunkedRobot, ModelSpec, Outcome, Run, WaitingClient
from inferential.tracking.cadence import CadenceTracker

_PROGRESS_S = 0.5  # of virtual time
_CALL_ENDS, _TURNED, _IS_FREE, _REACHES_SERVER, _ASKS, _TICKS = range(6)  # the order of events of the same instant


_Turns = Iterator[tuple[Arrival, float]]
"""What a client asks, and the seconds that it pauses after the answer."""


class ConservationError(AssertionError):
    """A request ended twice, or not at all: a bug of the engine or of a strategy."""


def simulate(
    models: Sequence[ModelSpec],
    arrivals: Sequence[Arrival],
    strategy: str,
    *,
    seconds: float,
    seed: int,
    robots: Sequence[ChunkedRobot] = (),
    waiting: Sequence[WaitingClient] = (),
    options: Mapping[str, Any] | None = None,
    profiled: bool = False,
    busy: Mapping[str, tuple[float, float]] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Run:
    """Runs a strategy for so many seconds of virtual time; the same arguments give the same run.

    Args:
        models: what is served.
        arrivals: what is asked in open loop, in order of time.
        strategy: a registered strategy.
        seconds: when it ends; what is still open then stays open.
        seed: of the latencies of calls, which do not depend on the strategy: the nth call takes its nth chance.
        robots: robots in closed loop; each brings the seed of its network.
        waiting: clients that wait for each answer before they ask again.
        options: fields of the scheduling configuration, or of the strategy's own section.
        profiled: whether the latencies of the models are known from the beginning, as from `inferential profile`.
        busy: from when to when a model begins no call, as it has others' requests, by model id.
        progress: called with the seconds simulated, now and then.

    Raises:
        ValueError: an unknown strategy or option, or a request for a model that is not there.
        ConservationError: an arrival ended twice or not at all.
    """
    with virtual_time() as clock:
        simulation = _Simulation(models, strategy, seconds, seed, options or {}, clock)
        if profiled:
            simulation.load_profiles()
        simulation.hold_back(busy or {})
        simulation.begin(robots, waiting)
        return simulation.run(arrivals, progress)


class _Simulation:
    def __init__(
        self,
        models: Sequence[ModelSpec],
        strategy: str,
        seconds: float,
        seed: int,
        options: Mapping[str, Any],
        clock: Clock,
    ) -> None:
        config = with_options(SchedulingConfig(max_queue_size=1_000_000), strategy, options)
        self._strategy = strategy
        self._clock = clock
        self._end = BEGIN_S + seconds
        self._models = {model.model_id: model for model in models}
        self._capacity = {
            model.model_id: Capacity(
                model.max_inflight,
                model.max_batch_size,
                tuple(str(number) for number in range(len(model.speeds))),
                model.device,
            )
            for model in models
        }
        self._scheduler = create_scheduler(config)
        self._busy: dict[str, tuple[float, float]] = {}
        self._engine = Engine(config, self._scheduler, self._capacity_of)
        self._cadence = CadenceTracker()
        self._chance = random.Random(seed)
        self._serials = itertools.count()
        self._numbers = itertools.count(1)
        self._events: list[tuple[float, int, int, Any]] = []  # when, what, serial, of whom
        self._wakes_at = math.inf
        self._open: dict[InferenceRequest, Arrival] = {}
        self._arrived: list[Arrival] = []  # in closed loop
        self._asking: dict[int, tuple[WaitingClient, _Turns, float]] = {}  # by the id of what it waits for
        self._loops: dict[str, RobotLoop] = {}
        self._observations: dict[InferenceRequest, Observation] = {}
        self._outcomes: dict[int, Outcome] = {}  # by the id of the arrival: two may be alike
        self._calls: dict[Batch, Call] = {}
        self._turned: set[Batch] = set()  # answered, whose replicas are not free yet
        self._decisions_s: list[float] = []

    def load_profiles(self) -> None:
        """Tells the engine how long calls take."""
        profiles = {model.model_id: model.profile() for model in self._models.values()}
        self._engine.profiles.load(profiles)

    def hold_back(self, busy: Mapping[str, tuple[float, float]]) -> None:
        """Has models begin no call for some time."""
        for model_id, (begins_at, ends_at) in busy.items():
            self._busy[model_id] = BEGIN_S + begins_at, BEGIN_S + ends_at
            self._later(BEGIN_S + ends_at, _IS_FREE, model_id)

    def _capacity_of(self, model_id: str) -> Capacity:
        capacity = self._capacity[model_id]
        span = self._busy.get(model_id)
        return replace(capacity, max_inflight=0) if span and span[0] <= self._clock.now < span[1] else capacity

    def run(self, arrivals: Sequence[Arrival], progress: Callable[[float], None] | None) -> Run:
        """Runs it to its end, with these arrivals in open loop."""
        clock, events = self._clock, self._events
        reported_at = BEGIN_S
        coming = iter(arrivals)
        following = next(coming, None)
        while True:
            arrives_at = math.inf if following is None else BEGIN_S + following.at
            event_at = events[0][0] if events else math.inf
            at = min(arrives_at, event_at, max(self._wakes_at, clock.now))
            if at >= self._end:
                break
            clock.now = at
            if progress is not None and at - reported_at >= _PROGRESS_S:
                reported_at = at
                progress(at - BEGIN_S)
            if at == event_at:
                if not self._happens():
                    continue
            elif at == arrives_at:
                assert following is not None
                self._offer(following, self._deadline(following))
                following = next(coming, None)
                if following is not None and BEGIN_S + following.at == at:
                    continue  # what comes at once is decided on at once
            else:
                self._engine.expire(at)
            self._work()
        return self._result(arrivals)

    def begin(self, robots: Sequence[ChunkedRobot], waiting: Sequence[WaitingClient]) -> None:
        """Has robots and clients in closed loop begin."""
        for client in waiting:
            turns = itertools.cycle(zip(client.asks, client.pauses_s, strict=True))
            self._later(BEGIN_S + client.asks[0].at, _ASKS, (client, turns))
        for robot in robots:
            loop = self._loops[robot.client_id] = RobotLoop(robot, BEGIN_S)
            self._later(loop.next_tick_at, _TICKS, loop)
        if isinstance(self._scheduler, SeesRobots):
            self._scheduler.see(Mirror(self._loops, self._models))
        self._pace = self._scheduler.interval_s if isinstance(self._scheduler, PacesRobots) else None

    def _later(self, at: float, what: int, of: Any) -> None:
        heapq.heappush(self._events, (at, what, next(self._serials), of))

    def _happens(self) -> bool:
        """Handles the next event; False where nothing is to be decided after it."""
        at, what, _, of = heapq.heappop(self._events)
        if what == _TICKS:
            self._tick(of, at)
            return False
        if what == _CALL_ENDS:
            return self._finish(of)
        if what == _TURNED:
            self._turned.remove(of)
            self._engine.finished(of, at)
        if what in (_TURNED, _IS_FREE):
            return True
        (self._ask if what == _ASKS else self._reach)(*of)
        return not (self._events and self._events[0][:2] == (at, what))  # what comes at once is decided on at once

    # Clients that wait for each answer

    def _ask(self, client: WaitingClient, turns: _Turns) -> None:
        asked, pause_s = next(turns)
        at = self._clock.now - BEGIN_S
        arrival = replace(asked, at=at, deadline=at + asked.deadline - asked.at)
        self._arrived.append(arrival)
        self._asking[id(arrival)] = client, turns, pause_s
        self._offer(arrival, self._deadline(arrival))

    def _pause(self, client: WaitingClient, turns: _Turns, pause_s: float) -> None:
        asks_at = self._clock.now + pause_s
        if asks_at <= BEGIN_S + client.stops_at:
            self._later(asks_at, _ASKS, (client, turns))

    # Robots in closed loop

    def _tick(self, loop: RobotLoop, now: float) -> None:
        robot = loop.robot
        pace_s = 0.0 if self._pace is None else self._pace(robot.client_id, robot.model_id)
        observation = loop.tick(now, next(self._numbers), robot.interval_s, pace_s)
        if observation is not None:
            at = loop.reaches_server_at(now)
            if not loop.is_lost():
                self._later(at, _REACHES_SERVER, (loop, observation))
        if loop.next_tick_at < loop.stops_at:
            self._later(loop.next_tick_at, _TICKS, loop)

    def _reach(self, loop: RobotLoop, observation: Observation) -> None:
        robot, now, ask = loop.robot, self._clock.now, observation.ask
        under_way = None
        if ask.waiting is not None and ask.waiting.state is not QUEUED:  # it was dispatched, or refused
            if robot.refresh:
                return
            under_way = ask.waiting.chunk if ask.waiting.refusal is None else None
            loop.asks_again(observation)
        time_s = robot.budget_s if robot.budget_s is not None else max(observation.steps_remaining, 1) * robot.period_s
        arrival = Arrival(
            at=now - BEGIN_S,
            client_id=robot.client_id,
            model_id=robot.model_id,
            robot_class=robot.robot_class,
            deadline=now - BEGIN_S + time_s,
            priority=robot.priority,
            urgency=robot.urgency,
            late=robot.late,
            steps_remaining=observation.steps_remaining,
        )
        self._arrived.append(arrival)
        self._offer(arrival, now + time_s, observation, under_way)

    # The server's side

    def _deadline(self, arrival: Arrival) -> float:
        return BEGIN_S + arrival.deadline

    def _offer(
        self,
        arrival: Arrival,
        deadline: float,
        observation: Observation | None = None,
        under_way: ChunkTime | None = None,
    ) -> None:
        now = self._clock.now
        if arrival.model_id not in self._models:
            raise ValueError(
                f"model: {arrival.client_id!r} asks for {arrival.model_id!r}, which is not among the models"
            )
        client_id, model_id = arrival.client_id, arrival.model_id
        replaced = None if observation is None else observation.ask.waiting
        if replaced is not None and replaced.state is QUEUED:
            self._cadence.on_renewal(client_id, model_id, now)
        else:
            self._cadence.on_request(client_id, model_id, now)
        request = InferenceRequest(
            client_id=client_id,
            model_id=model_id,
            identity=b"",
            envelope=b"",
            payload=b"",
            received_at=now,
            urgency=arrival.urgency,
            steps_remaining=arrival.steps_remaining,
            time_until_next=self._cadence.learned_cadence(client_id, model_id) or 0.0,
            latency_budget_ms=max(deadline - now, 1e-6) * 1e3,
            priority=arrival.priority,
            deadline=deadline,
            late=arrival.late,
            takes_latest=arrival.latest,
        )
        self._open[request] = arrival
        if observation is not None:
            request.chunk = chunk_time(observation, now, under_way)
            request.request_id = observation.number
            request.control_period_s = observation.robot.period_s
            observation.ask.waiting = request
            self._observations[request] = observation
        self._engine.offer(request, now)
        self._note_ended()

    def _work(self) -> None:
        now = self._clock.now
        began = time.perf_counter()
        batches = self._engine.work(now)
        self._decisions_s.append(time.perf_counter() - began)
        for batch in batches:
            model = self._models[batch.model_id]
            latency_s = model.latency_s[len(batch.requests) - 1] / model.speeds[int(batch.replica)]
            chance = self._chance.gauss(0.0, model.spread)
            self._later(now + latency_s * math.exp(chance), _CALL_ENDS, batch)
        self._note_ended()
        for request in self._engine.outdated():
            self._ask_anew(request)
        wakes_at = self._engine.wake_at()
        self._wakes_at = math.inf if wakes_at is None else wakes_at

    def _finish(self, batch: Batch) -> bool:
        """Sends the answers of a call; returns whether its replica is free at once."""
        now, turnaround_s = self._clock.now, self._models[batch.model_id].turnaround_s
        if turnaround_s:
            self._turned.add(batch)
            self._later(now + turnaround_s, _TURNED, batch)
        else:
            self._engine.finished(batch, now)
        in_time = 0
        for request in batch.requests:
            request.move(RequestState.ANSWERED)
            in_time += self._ended(request, ANSWERED, batch.started_at - BEGIN_S).in_time
        self._calls[batch] = Call(
            batch.model_id,
            int(batch.replica),
            batch.started_at - BEGIN_S,
            now - BEGIN_S,
            len(batch.requests),
            in_time,
        )
        return not turnaround_s

    def _note_ended(self) -> None:
        for request in self._engine.ended():
            assert request.refusal is not None
            self._ended(request, request.refusal.kind.value, None)

    def _ask_anew(self, request: InferenceRequest) -> None:
        observation = self._observations.get(request)
        if observation is not None:
            loop = self._loops[request.client_id]
            loop.turn_in_s = max(request.turn_at - self._clock.now, 0.0)
            loop.deliver(self._clock.now, OUTDATED, observation)

    def _ended(self, request: InferenceRequest, end: str, started_at: float | None) -> Outcome:
        now = self._clock.now
        arrival = self._open.pop(request, None)
        if arrival is None:
            raise ConservationError(f"{self._strategy}: a request of {request.client_id!r} ended twice")
        outcome = self._outcomes[id(arrival)] = Outcome(arrival, now - BEGIN_S, end, started_at)
        if (asking := self._asking.pop(id(arrival), None)) is not None:
            self._pause(*asking)
        observation = self._observations.pop(request, None)
        if observation is not None:
            robot = observation.robot
            actions = robot.chunk_steps or robot.horizon_steps
            observation.suggested_horizon = horizon_of_answer(request, actions, None, now) or None
            self._loops[request.client_id].deliver(now, end, observation)
        return outcome

    def _result(self, arrivals: Sequence[Arrival]) -> Run:
        seconds = self._end - BEGIN_S
        held = {*self._engine.running()}.difference(*(batch.requests for batch in self._turned))
        waiting = len(self._open) - len(held)
        if held - self._open.keys() or waiting != self._engine.waiting():
            raise ConservationError(
                f"{self._strategy}: {waiting} requests are open and neither ran nor ended, the engine knows of "
                f"{self._engine.waiting()}"
            )
        offered = [arrival for arrival in arrivals if arrival.at < seconds]
        if self._arrived:
            offered = sorted([*offered, *self._arrived], key=lambda arrival: arrival.at)
        outcomes = [self._outcomes.get(id(arrival)) or Outcome(arrival, seconds, "open") for arrival in offered]
        costs = sorted(self._decisions_s) or [0.0]
        mean, high = sum(costs) / len(costs), costs[int(0.99 * (len(costs) - 1))]
        calls = sorted(self._calls.values(), key=lambda call: call.started_at)
        played = [loop.played(self._end) for loop in self._loops.values()]
        return Run(self._strategy, seconds, outcomes, calls, (mean * 1e6, high * 1e6), played)
