"""What a call took leaves the tables once it has begun: nothing that is asked meanwhile shows it, nor any decision."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest, admission, create_scheduler
from inferential.scheduler.client_queues import ClientQueues
from inferential.scheduler.engine import Batch, Capacity, Engine
from inferential.scheduler.request import RequestState
from inferential.scheduler.time.robot_time import ChunkTime

MakeRequest = Callable[..., InferenceRequest]


class AtOnce(ClientQueues):
    """Requests of a call leave the tables before it begins."""

    def choose(self, slots: Any, now: float) -> Any:
        taken = super().choose(slots, now)
        self.settle()
        return taken


def make_engine(*, leaves_at_once: bool = False) -> Engine:
    config = SchedulingConfig(strategy="slo_aware", max_queue_size=12)
    capacity = Capacity(1, 3, ("0", "1"))
    with patch.object(admission, "ClientQueues", AtOnce if leaves_at_once else ClientQueues):
        engine = Engine(config, create_scheduler(config), lambda model_id: capacity)
    engine.profiles.load({"m": [{"batch_size": size, "median_ms": 10.0 + size} for size in range(1, 4)]})
    return engine


LOOKS: list[Callable[[Engine], Any]] = [
    Engine.waiting,
    lambda engine: engine.waiting("m"),
    Engine.sizes,
    lambda engine: [engine.waits(connection) for connection in range(4)],
    lambda engine: sorted(request.request_id for request in engine.requests()),
    lambda engine: sorted(request.request_id for request in engine.waiting_requests()),
    lambda engine: [request.request_id for request in engine.ended()],
    lambda engine: engine.idle,
    Engine.wake_at,
]


def ids_of(batch: Batch) -> list[int]:
    return [request.request_id for request in batch.requests]


@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["chunks", "deadlines", "both"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whether_a_call_leaves_the_tables_at_once_or_later_changes_nothing(
    seed: int, kind: str, clock: Any, make_request: MakeRequest
) -> None:
    chance = random.Random(seed)
    engines = [make_engine(), make_engine(leaves_at_once=True)]
    running: list[list[Batch]] = [[], []]

    def request(number: int, client: int, takes_latest: bool, in_order: bool, with_chunk: bool, left_s: float) -> Any:
        chunk = ChunkTime(clock.now + left_s, clock.now + 0.5, 0.5) if with_chunk else None
        made = make_request(f"c{client}", request_id=number, connection=client % 4, takes_latest=takes_latest)
        made.chunk, made.arrival, made.payload = chunk, number, b"x" * client
        if in_order:
            made.in_order, made.pace_s = (f"c{client}", "m"), math.inf
        return made

    for number in range(1, 60):
        clock.now += chance.choice([0.0, 0.004, 0.02])
        what = chance.random()
        if what < 0.6:
            client = chance.randrange(8)
            # A robot whose model keeps its state has all its requests run in order.
            fields = (chance.random() < 0.5, client < 2, kind == "chunks" or (kind == "both" and client % 2 == 0))
            left_s = chance.uniform(-0.2, 0.2)
            for engine in engines:
                engine.offer(request(number, client, *fields, left_s), clock.now)
        elif what < 0.7:
            client = chance.randrange(8)
            for engine in engines:
                engine.client_gone(f"c{client}", clock.now)
        elif running[0]:
            at = chance.randrange(len(running[0]))
            for engine, calls in zip(engines, running, strict=True):
                batch = calls.pop(at)
                engine.finished(batch, clock.now)
                for one in batch.requests:
                    one.move(RequestState.ANSWERED)
                engine.release(batch, clock.now)
        begun = [engine.work(clock.now) for engine in engines]
        for calls, batches in zip(running, begun, strict=True):
            calls += batches
        first, second = ([ids_of(batch) for batch in batches] for batches in begun)
        assert first == second
        for look in chance.sample(LOOKS, chance.randrange(3)):
            assert look(engines[0]) == look(engines[1])


@pytest.mark.parametrize("looks_first", [True, False])
def test_a_robot_whose_call_has_just_begun_asks_anew(looks_first: bool, clock: Any, make_request: MakeRequest) -> None:
    """Its former request is not superseded: it runs."""
    engine = make_engine()
    for number in range(7):
        engine.offer(make_request(f"c{number}", takes_latest=True), clock.now)
    _, batch = engine.work(clock.now)
    again = make_request(batch.requests[0].client_id, takes_latest=True)
    if looks_first:
        assert not engine.supersedes(again)
    engine.offer(again, clock.now)
    assert engine.ended() == []
    assert {request.state for request in batch.requests} == {RequestState.DISPATCHED}
    assert engine.waiting("m") == 2
