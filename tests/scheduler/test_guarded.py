"""A user's model-aware scheduler whose methods fail: nothing that waits is stranded, and nothing runs twice."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest
from inferential.scheduler.deadline_aware import DeadlineAwareScheduler
from inferential.scheduler.engine import Capacity, Engine
from inferential.scheduler.request import RequestState

MakeRequest = Callable[..., InferenceRequest]
TTL_S = 5.0
ASKED = (
    "submit", "resubmit", "next_batch_on", "next_batch_for_model", "queue_len_for_model", "models", "remove",
    "ready_on", "ready_at", "eviction_rank", "bind", "in_turn", "take_infeasible", "take_outdated", "infeasible_at",
    "tick", "on_client_connected", "on_client_disconnected", "queue_len", "status",
)  # fmt: skip


def scheduler(**methods: Any) -> DeadlineAwareScheduler:
    kind: Any = type("Mine", (DeadlineAwareScheduler,), methods)
    made: DeadlineAwareScheduler = kind(SchedulingConfig())
    return made


def fails(*given: Any, **named: Any) -> Any:
    raise RuntimeError("a mistake")


def ends(engine: Engine, requests: list[InferenceRequest], clock: Any) -> list[RequestState]:
    """Drives an engine as the server does, until nothing waits; returns how the requests ended."""
    for request in requests:
        engine.client_connected(request.client_id)
        engine.offer(request, clock.now)
    for _ in range(10_000):
        batches = engine.work(clock.now)
        for batch in batches:
            engine.finished(batch, clock.now)
        engine.ended()
        at = engine.wake_at()
        if at is None and not batches:
            break
        if not batches:
            assert at is not None
            clock.now = at
            engine.expire(clock.now)
    assert engine.idle
    assert not any(engine.sizes().values())
    return [request.state for request in requests]


@pytest.mark.parametrize("method", ASKED)
def test_whatever_method_of_a_users_scheduler_raises_each_request_ends(
    method: str, clock: Any, make_request: MakeRequest, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(SchedulingConfig(), scheduler(**{method: fails}), lambda model_id: Capacity(1, 2, device="gpu"))
    requests = [make_request(client, model=model) for client in "abcd" for model in ("m", "n")]
    assert set(ends(engine, requests, clock)) <= {RequestState.DISPATCHED, RequestState.REFUSED}
    engine.client_gone("a", clock.now)
    assert len(caplog.records) <= 1
    assert clock.now <= 10 * TTL_S + 1000


def test_of_what_a_users_scheduler_gives_only_what_waits_and_fits_is_run(clock: Any, make_request: MakeRequest) -> None:
    kept: list[InferenceRequest] = []

    def gives(self: Any, slot: Any, filled: int = 0) -> Any:
        return [None, *kept, *kept]

    def keeps(self: Any, request: InferenceRequest) -> None:
        if request not in kept:
            kept.append(request)

    engine = Engine(
        SchedulingConfig(),
        scheduler(next_batch_on=gives, resubmit=keeps, submit=keeps, ready_on=lambda self, slot: -math.inf),
        lambda model_id: Capacity(1, 2),
    )
    requests = [make_request(client, model=model) for model in ("m", "n") for client in "abc"]
    for request in requests:
        engine.offer(request, clock.now)
    batches = engine.work(clock.now)
    assert [[(one.client_id, one.pool) for one in batch.requests] for batch in batches] == [
        [("a", "m"), ("b", "m")],
        [("a", "n"), ("b", "n")],
    ]
    for batch in batches:
        engine.finished(batch, clock.now)
    assert [[one.client_id for one in batch.requests] for batch in engine.work(clock.now)] == [["c"], ["c"]]


def test_models_that_share_a_device_all_have_their_turn_whatever_a_users_scheduler_says(
    clock: Any, make_request: MakeRequest
) -> None:
    engine = Engine(
        SchedulingConfig(),
        scheduler(in_turn=lambda self, model_ids: ["m", "m", "unknown"]),
        lambda model_id: Capacity(1, 1, device="gpu"),
    )
    requests = [make_request("a", model=model) for model in ("n", "m")]
    assert ends(engine, requests, clock) == [RequestState.DISPATCHED] * 2
