"""An engine under `slo_aware` in virtual time, for its tests."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest, create_scheduler
from inferential.scheduler.engine import Batch, Capacity, Engine
from inferential.scheduler.request import RequestState
from inferential.scheduler.time.profile import Profiles

MakeRequest = Callable[..., InferenceRequest]


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
            self.engine.outdated()

    def _end(self, request: InferenceRequest, now: float) -> None:
        assert request not in self.ended
        assert request.over
        self.ended[request] = now

    def in_time(self, request: InferenceRequest) -> bool:
        return request.state is RequestState.ANSWERED and self.ended[request] <= request.deadline + 1e-9


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
