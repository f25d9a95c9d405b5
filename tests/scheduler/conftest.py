"""Requests, configurations and a clock for the tests of the scheduler package.

They are factories of session scope, so that hypothesis may call them for every example.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from tests.scheduler.slo_bench import Bench

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest, ModelAwareScheduler, create_scheduler
from inferential.scheduler.engine import Capacity


class Clock:
    """What time.monotonic() says while it is stopped."""

    def __init__(self, now: float) -> None:
        self.now = now


@contextmanager
def _stopped(now: float = 100.0) -> Iterator[Clock]:
    clock = Clock(now)
    with patch.object(time, "monotonic", side_effect=lambda: clock.now):
        yield clock


def _request(client: str = "c", model: str = "m", **fields: Any) -> InferenceRequest:
    given: dict[str, Any] = {
        "received_at": time.monotonic(),
        "urgency": 0.0,
        "steps_remaining": None,
        "time_until_next": 1.0,
        "latency_budget_ms": 50.0,
        "priority": 1,
        "payload": b"",
    }
    given |= fields
    return InferenceRequest(client_id=client, model_id=model, identity=client.encode(), envelope=b"", **given)


def _scheduler(strategy: str, **options: Any) -> ModelAwareScheduler:
    scheduler = create_scheduler(SchedulingConfig(strategy=strategy, **options))
    assert isinstance(scheduler, ModelAwareScheduler)
    return scheduler


@pytest.fixture(scope="session")
def stopped_clock() -> Callable[..., AbstractContextManager[Clock]]:
    """`with stopped_clock(100.0) as clock:` and then `clock.now += 1`."""
    return _stopped


@pytest.fixture
def clock() -> Iterator[Clock]:
    """The clock, stopped at 100 s for the test; `clock.now` may be set."""
    with _stopped() as clock:
        yield clock


@pytest.fixture(scope="session")
def make_request() -> Callable[..., InferenceRequest]:
    """`make_request("client", "model", urgency=1.0)`; received now, not overdue, unless given otherwise."""
    return _request


@pytest.fixture(scope="session")
def make_scheduler() -> Callable[..., ModelAwareScheduler]:
    """`make_scheduler("round_robin", max_queue_size=2)`."""
    return _scheduler


STRATEGIES = ["batch_optimized", "deadline_aware", "model_deadline", "priority_tiered", "round_robin"]


@pytest.fixture(params=STRATEGIES, scope="session")
def strategy(request: pytest.FixtureRequest) -> str:
    """Each built-in strategy in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def bench() -> Callable[..., Bench]:
    def make(clock: Any, latencies_ms: Sequence[float], *, replicas: Sequence[str] = ("",), **options: Any) -> Bench:
        names = [f"m/{replica}" if replica else "m" for replica in replicas]
        capacity = {"m": Capacity(1, len(latencies_ms), tuple(replicas))}
        return Bench(clock, capacity, {name: list(latencies_ms) for name in names}, options)

    return make
