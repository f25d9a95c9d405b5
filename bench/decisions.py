"""What a decision costs with 64 and 1,000 requests waiting: the strategy's own part, and all that the engine does
around it. `slo_aware` twice: for requests with a deadline, and for those of robots that play chunks.

The clock that the engine sees is a made-up one; a call of the model ends, the next is decided, and as many requests
come as went.
"""

from __future__ import annotations

import random
import time
from dataclasses import asdict, dataclass
from typing import Any
from unittest.mock import patch

import numpy as np

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest, create_scheduler
from inferential.scheduler.engine import Capacity, Engine
from inferential.scheduler.time.availability import ReplicaSlot
from inferential.scheduler.time.robot_time import ChunkTime

WAITING = (64, 1_000)
DECISIONS = 5_000
CHUNKS = "slo_aware, chunks"
STRATEGIES = ("deadline_aware", "round_robin", "slo_aware", CHUNKS)
BATCH_SIZES = (1, 8)


@dataclass(frozen=True, slots=True)
class Row:
    """Microseconds: median and 99th percentile.

    Attributes:
        chosen: who runs next and with whom, by the strategy.
        decided: the same with all that the engine keeps of them, and when it is to be asked again.
        taken_in: a request that comes.
    """

    strategy: str
    waiting: int
    batch_size: int
    chosen_us: tuple[float, float]
    decided_us: tuple[float, float]
    taken_in_us: tuple[float, float]


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def run(seconds: float = 5.0) -> dict[str, Any]:
    """All strategies; a fixed number of decisions, whatever `seconds`."""
    rows = [asdict(_measure(name, waiting, size)) for name in STRATEGIES for waiting in WAITING for size in BATCH_SIZES]
    return {"rows": rows}


def _measure(name: str, waiting: int, batch_size: int) -> Row:
    strategy, with_chunks = name.split(",")[0], name == CHUNKS
    clock, chance = Clock(), random.Random(0)
    with patch.object(time, "monotonic", clock):
        config = SchedulingConfig(strategy=strategy, max_queue_size=10 * waiting)
        scheduler = create_scheduler(config)
        capacity = Capacity(1, batch_size)  # the same until it changes, as a server's
        engine = Engine(config, scheduler, lambda model_id: capacity)
        sizes = [{"batch_size": size, "median_ms": 10.0 + size, "high_ms": 11.0 + size} for size in range(1, 9)]
        engine.profiles.load({"m": sizes})
        chosen: list[float] = []
        decided: list[float] = []
        taken_in: list[float] = []
        choose = scheduler.next_batch_on  # type: ignore[attr-defined]

        def timed(slot: ReplicaSlot, filled: int = 0) -> list[InferenceRequest]:
            began = time.thread_time()
            batch: list[InferenceRequest] = choose(slot, filled)
            if batch:
                chosen.append(time.thread_time() - began)
            return batch

        scheduler.next_batch_on = timed  # type: ignore[attr-defined]
        for number in range(waiting):
            engine.offer(_request(number, clock.now, chance, with_chunks), clock.now)
        for _ in range(DECISIONS):
            clock.now += 0.018
            began = time.thread_time()
            (batch,) = engine.work(clock.now)
            engine.wake_at()
            decided.append(time.thread_time() - began)
            engine.ended()
            engine.finished(batch, clock.now, measured=False)
            for _ in batch.requests:
                number += 1
                request = _request(number, clock.now, chance, with_chunks)
                began = time.thread_time()
                engine.offer(request, clock.now)
                taken_in.append(time.thread_time() - began)
    return Row(name, waiting, batch_size, _of(chosen), _of(decided), _of(taken_in))


def _request(number: int, now: float, chance: random.Random, with_chunk: bool) -> InferenceRequest:
    return InferenceRequest(
        client_id=f"c{number}",
        model_id="m",
        identity=b"",
        envelope=b"",
        payload=b"",
        received_at=now,
        urgency=chance.random(),
        steps_remaining=None,
        time_until_next=0.1,
        # Time enough that no request becomes late: that is another branch, and a cheaper one.
        latency_budget_ms=chance.choice((50e3, 60e3, 70e3, 80e3)),
        priority=chance.randrange(3),
        chunk=ChunkTime(now + chance.uniform(-0.2, 0.3), now + 0.5, 0.5) if with_chunk else None,
    )


def _of(seconds: list[float]) -> tuple[float, float]:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e6
    return round(float(p50), 1), round(float(p99), 1)
