"""Runs a strategy on arrivals in virtual time: the server's engine, driven by a heap of events.

It makes no arrivals (`virtual.generate`) and judges no result (`virtual.measures`).
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import create_scheduler
from inferential.scheduler.engine import Batch, Capacity, Engine
from inferential.scheduler.options import with_options
from inferential.scheduler.request import InferenceRequest, RequestState
from inferential.sim.virtual.world import Arrival, Call, ModelSpec, Outcome, Run
from inferential.tracking.cadence import CadenceTracker

_BEGIN_S = 1000.0  # what the clock says at the beginning; strategies may take 0 for "never"
_PROGRESS_S = 0.5  # of virtual time


class ConservationError(AssertionError):
    """A request ended twice, or not at all: a bug of the engine or of a strategy."""


def simulate(
    models: Sequence[ModelSpec],
    arrivals: Sequence[Arrival],
    strategy: str,
    *,
    seconds: float,
    seed: int,
    options: Mapping[str, Any] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Run:
    """Runs a strategy for so many seconds of virtual time; the same arguments give the same run.

    Args:
        models: what is served.
        arrivals: what is asked, in order of time.
        strategy: a registered strategy.
        seconds: when it ends; what is still open then stays open.
        seed: of the latencies of calls, which do not depend on the strategy: the nth call takes its nth chance.
        options: fields of the scheduling configuration, or of the strategy's own section.
        progress: called with the seconds simulated, now and then.

    Raises:
        ValueError: an unknown strategy or option, or an arrival that asks for a model that is not there.
        ConservationError: an arrival ended twice or not at all.
    """
    with _virtual_time() as clock:
        return _Simulation(models, strategy, seconds, seed, options or {}, clock).run(arrivals, progress)


class _Clock:
    def __init__(self) -> None:
        self.now = _BEGIN_S

    def __call__(self) -> float:
        return self.now


@contextmanager
def _virtual_time() -> Iterator[_Clock]:
    """Has `time.monotonic()` tell virtual time: all schedulers read it there, a user's own and their policies too."""
    clock, module = _Clock(), vars(time)
    real = module["monotonic"]
    module["monotonic"] = clock
    try:
        yield clock
    finally:
        module["monotonic"] = real


class _Simulation:
    def __init__(
        self,
        models: Sequence[ModelSpec],
        strategy: str,
        seconds: float,
        seed: int,
        options: Mapping[str, Any],
        clock: _Clock,
    ) -> None:
        config = with_options(SchedulingConfig(max_queue_size=1_000_000), strategy, options)
        self._strategy = strategy
        self._clock = clock
        self._end = _BEGIN_S + seconds
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
        self._engine = Engine(config, create_scheduler(config), self._capacity.__getitem__)
        self._cadence = CadenceTracker()
        self._chance = random.Random(seed)
        self._serials = itertools.count()
        self._events: list[tuple[float, int, Batch]] = []
        self._open: dict[InferenceRequest, Arrival] = {}
        self._outcomes: dict[int, Outcome] = {}  # by the id of the arrival: two may be alike
        self._calls: dict[Batch, Call] = {}
        self._decisions_s: list[float] = []

    def run(self, arrivals: Sequence[Arrival], progress: Callable[[float], None] | None) -> Run:
        clock, engine, events = self._clock, self._engine, self._events
        told_at = _BEGIN_S
        coming = iter(arrivals)
        following = next(coming, None)
        while True:
            arrives_at = math.inf if following is None else _BEGIN_S + following.at
            ends_at = events[0][0] if events else math.inf
            wakes_at = engine.wake_at()
            at = min(arrives_at, ends_at, math.inf if wakes_at is None else max(wakes_at, clock.now))
            if at >= self._end:
                break
            clock.now = at
            if progress is not None and at - told_at >= _PROGRESS_S:
                told_at = at
                progress(at - _BEGIN_S)
            if at == ends_at:
                self._finish(heapq.heappop(events)[2])
            elif at == arrives_at:
                assert following is not None
                self._offer(following)
                following = next(coming, None)
                if following is not None and _BEGIN_S + following.at == at:
                    continue  # what comes at once is decided on at once
            else:
                engine.expire(at)
            self._work()
        return self._result(arrivals)

    def _offer(self, arrival: Arrival) -> None:
        now = self._clock.now
        if arrival.model_id not in self._models:
            raise ValueError(f"model: {arrival.model_id!r} is asked for by {arrival.client_id!r} and is not there")
        self._cadence.on_request(arrival.client_id, arrival.model_id, now)
        deadline = _BEGIN_S + arrival.deadline
        request = InferenceRequest(
            client_id=arrival.client_id,
            model_id=arrival.model_id,
            identity=b"",
            envelope=b"",
            payload=b"",
            received_at=now,
            urgency=arrival.urgency,
            steps_remaining=arrival.steps_remaining,
            time_until_next=self._cadence.time_until_next(arrival.client_id, arrival.model_id, now),
            latency_budget_ms=max(deadline - now, 1e-6) * 1e3,
            priority=arrival.priority,
            deadline=deadline,
            late=arrival.late,
            takes_latest=arrival.latest,
        )
        self._open[request] = arrival
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
            heapq.heappush(self._events, (now + latency_s * math.exp(chance), next(self._serials), batch))
        self._note_ended()

    def _finish(self, batch: Batch) -> None:
        now = self._clock.now
        self._engine.finished(batch, now)
        in_time = 0
        for request in batch.requests:
            request.move(RequestState.ANSWERED)
            in_time += self._ended(request, "answered", batch.started_at - _BEGIN_S).in_time
        self._calls[batch] = Call(
            batch.model_id,
            int(batch.replica),
            batch.started_at - _BEGIN_S,
            now - _BEGIN_S,
            len(batch.requests),
            in_time,
        )

    def _note_ended(self) -> None:
        for request in self._engine.ended():
            assert request.refusal is not None
            self._ended(request, request.refusal.kind.value, None)

    def _ended(self, request: InferenceRequest, end: str, started_at: float | None) -> Outcome:
        arrival = self._open.pop(request, None)
        if arrival is None:
            raise ConservationError(f"{self._strategy}: a request of {request.client_id!r} ended twice")
        outcome = self._outcomes[id(arrival)] = Outcome(arrival, self._clock.now - _BEGIN_S, end, started_at)
        return outcome

    def _result(self, arrivals: Sequence[Arrival]) -> Run:
        seconds = self._end - _BEGIN_S
        held = {*self._engine.running()}
        waiting = len(self._open) - len(held)
        if held - self._open.keys() or waiting != self._engine.waiting():
            raise ConservationError(
                f"{self._strategy}: {waiting} requests are open and neither ran nor ended, the engine knows of "
                f"{self._engine.waiting()}"
            )
        offered = [arrival for arrival in arrivals if arrival.at < seconds]
        outcomes = [self._outcomes.get(id(arrival)) or Outcome(arrival, seconds, "open") for arrival in offered]
        costs = sorted(self._decisions_s) or [0.0]
        mean, high = sum(costs) / len(costs), costs[int(0.99 * (len(costs) - 1))]
        calls = sorted(self._calls.values(), key=lambda call: call.started_at)
        return Run(self._strategy, seconds, outcomes, calls, (mean * 1e6, high * 1e6))
