"""What a decision costs with 64 and 1,000 requests waiting: the strategy's own part, and all that the engine does
around it. `slo_aware` three times: for requests with a deadline, for those of robots that play chunks by time, and for
those of robots as `ChunkRuntime` has them by default, which go on with the first action that they have not executed,
observe at control steps that are known, and renew observations.

The clock that the engine sees is a made-up one; a call of the model ends, the next is decided, and the robots that it
serves ask again. Those that are to renew their observations do so before the call ends.
"""

from __future__ import annotations

import math
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
EXECUTED = "slo_aware, chunks executed"
STRATEGIES = ("deadline_aware", "round_robin", "slo_aware", CHUNKS, EXECUTED)
BATCH_SIZES = (1, 8)
CHUNK_S = 0.5
STEP_S = 0.02
TRANSIT_S = 0.004
CALL_S = 0.018


@dataclass(frozen=True, slots=True)
class Row:
    """Microseconds: median and 99th percentile.

    Attributes:
        chosen: who runs next and with whom, by the strategy; of every other decision, as to read the clock twice within
            one takes a thirtieth of it.
        decided: all from the end of a call until the next one is handed over, with what the engine keeps of that; of
            the others.
        afterwards: all that is done while that call runs: to note what it serves, to find whose observations the next
            one wants, and when the engine is to be asked again.
        taken_in: a request that comes.
    """

    strategy: str
    waiting: int
    batch_size: int
    chosen_us: tuple[float, float]
    decided_us: tuple[float, float]
    afterwards_us: tuple[float, float]
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
    strategy = name.split(",")[0]
    clock, chance = Clock(), random.Random(0)
    with patch.object(time, "monotonic", clock):
        config = SchedulingConfig(strategy=strategy, max_queue_size=10 * waiting, request_ttl_ms=3600e3)
        scheduler = create_scheduler(config)
        capacity = Capacity(1, batch_size)  # the same until it changes, as a server's
        engine = Engine(config, scheduler, lambda model_id: capacity)
        sizes = [{"batch_size": size, "median_ms": 10.0 + size, "high_ms": 11.0 + size} for size in range(1, 9)]
        engine.profiles.load({"m": sizes})
        chosen: list[float] = []
        decided: list[float] = []
        afterwards: list[float] = []
        taken_in: list[float] = []
        choose = scheduler.next_batch_on  # type: ignore[attr-defined]

        def timed(slot: ReplicaSlot, filled: int = 0) -> list[InferenceRequest]:
            if not is_apart:
                return choose(slot, filled)  # type: ignore[no-any-return]
            began = time.thread_time()
            batch: list[InferenceRequest] = choose(slot, filled)
            if batch:
                chosen.append(time.thread_time() - began)
            return batch

        scheduler.next_batch_on = timed  # type: ignore[attr-defined]
        for number in range(waiting):
            engine.offer(_request(f"c{number}", clock.now, chance, name), clock.now)
        freed_s = 0.0
        for turn in range(2 * DECISIONS):
            is_apart = turn % 2 == 0
            began = time.thread_time()
            (batch,) = engine.work(clock.now)
            handed_over = time.thread_time()
            outdated = engine.outdated()
            wake_at = engine.wake_at()
            spent_s = time.thread_time() - handed_over
            if not is_apart:
                decided.append(freed_s + handed_over - began)
            ends_at = clock.now + CALL_S
            while wake_at is not None and wake_at < ends_at:
                clock.now = wake_at
                began = time.thread_time()
                engine.work(clock.now)
                outdated += engine.outdated()
                wake_at = engine.wake_at()
                spent_s += time.thread_time() - began
            afterwards.append(spent_s)
            clock.now = ends_at
            for old in outdated:
                engine.offer(_request(old.client_id, clock.now - STEP_S / 10, chance, name), clock.now)
            engine.ended()
            began = time.thread_time()
            engine.finished(batch, clock.now, measured=False)
            freed_s = time.thread_time() - began
            for served in batch.requests:
                request = _request(served.client_id, clock.now, chance, name)
                began = time.thread_time()
                engine.offer(request, clock.now)
                taken_in.append(time.thread_time() - began)
    return Row(name, waiting, batch_size, _of(chosen), _of(decided), _of(afterwards), _of(taken_in))


def _request(client_id: str, now: float, chance: random.Random, name: str) -> InferenceRequest:
    return InferenceRequest(
        client_id=client_id,
        model_id="m",
        takes_latest=name == EXECUTED,
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
        chunk=_chunk(now, now + chance.uniform(-0.2, 0.3), name) if "chunks" in name else None,
    )


def _chunk(now: float, runs_out_at: float, name: str) -> ChunkTime:
    if name == CHUNKS:
        return ChunkTime(runs_out_at, now + CHUNK_S, CHUNK_S)
    return ChunkTime(
        runs_out_at - TRANSIT_S,
        math.inf,
        CHUNK_S,
        CHUNK_S - max(runs_out_at - now, 0.0),
        renews=True,
        lead_s=TRANSIT_S + STEP_S,
        steps_at=now - TRANSIT_S,
        step_s=STEP_S,
    )


def _of(seconds: list[float]) -> tuple[float, float]:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e6
    return round(float(p50), 1), round(float(p99), 1)
