"""Release of batches: full, or waited long enough."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import BatchOptimizedScheduler, InferenceRequest

MakeRequest = Callable[..., InferenceRequest]


def build(batch: int = 2, max_wait_ms: float = 10.0) -> BatchOptimizedScheduler:
    config = SchedulingConfig()
    config.batch_optimized.max_batch_size = batch
    config.batch_optimized.max_wait_ms = max_wait_ms
    return BatchOptimizedScheduler(config)


def test_a_full_batch_of_one_model_goes_at_once(clock: Any, make_request: MakeRequest) -> None:
    scheduler = build(batch=2)
    requests = [make_request(model=model) for model in ("m1", "m2", "m1")]
    for request in requests:
        scheduler.submit(request)
    assert scheduler.next_batch() == [requests[0], requests[2]]
    assert scheduler.next_batch() == []


def test_a_lone_request_waits_for_company_and_no_longer(make_request: MakeRequest) -> None:
    scheduler = build(batch=8, max_wait_ms=5.0)
    with patch.object(time, "monotonic", return_value=0.0):
        request = make_request()
        scheduler.submit(request)
        assert scheduler.next_batch() == []
        assert scheduler.ready_at("m") == pytest.approx(0.005)
    with patch.object(time, "monotonic", return_value=0.004):
        assert scheduler.next_batch() == []
    with patch.object(time, "monotonic", return_value=0.006):
        assert scheduler.next_batch() == [request]


def test_the_wait_counts_from_the_oldest_request_whatever_order_they_came_in(
    clock: Any, make_request: MakeRequest
) -> None:
    scheduler = build(batch=8)
    scheduler.submit(make_request("fresh"))
    scheduler.submit(make_request("old", received_at=99.995))
    assert scheduler.ready_at("m") == pytest.approx(100.005)
    clock.now = 100.006
    assert [request.client_id for request in scheduler.next_batch()] == ["old", "fresh"]


def test_a_request_waits_in_its_own_right_from_when_it_was_shown(clock: Any, make_request: MakeRequest) -> None:
    scheduler = build(batch=8)
    scheduler.submit(make_request(received_at=90.0, waiting_since=100.0))
    assert scheduler.ready_at("m") == pytest.approx(100.010)


def test_a_request_said_to_come_from_the_future_waits_from_now(clock: Any, make_request: MakeRequest) -> None:
    scheduler = build()
    scheduler.submit(make_request(received_at=1e6))
    assert scheduler.ready_at("m") == pytest.approx(100.010)


def test_what_is_left_of_a_lane_is_released_by_its_own_oldest(clock: Any, make_request: MakeRequest) -> None:
    scheduler = build(batch=2)
    requests = [make_request(received_at=100.0 + n / 1000) for n in range(3)]
    clock.now = 100.004
    for request in requests:
        scheduler.submit(request)
    assert scheduler.next_batch() == requests[:2]
    assert scheduler.next_batch() == []
    clock.now = 100.0121
    assert scheduler.next_batch() == requests[2:]


def test_a_released_batch_is_cut_to_what_is_asked_for_and_to_the_largest_batch(
    clock: Any, make_request: MakeRequest
) -> None:
    scheduler = build(batch=4)
    for _ in range(9):
        scheduler.submit(make_request())
    assert len(scheduler.next_batch_for_model("m", 3)) == 3
    assert len(scheduler.next_batch_for_model("m", 100)) == 4
    assert scheduler.next_batch_for_model("m", 100) == []
    clock.now += 0.1
    assert len(scheduler.next_batch_for_model("m")) == 2


def test_a_batch_that_lost_a_request_is_full_no_more(clock: Any, make_request: MakeRequest) -> None:
    scheduler = build(batch=2)
    first, second = make_request(), make_request()
    scheduler.submit(first)
    scheduler.submit(second)
    assert scheduler.ready_at("m") == 100.0
    scheduler.remove(first)
    assert scheduler.next_batch() == []


def test_the_model_that_has_been_ready_longest_goes_first(clock: Any, make_request: MakeRequest) -> None:
    scheduler = build(batch=2)
    scheduler.submit(make_request(model="waited", received_at=99.995))  # ready at 100.005
    clock.now = 100.003
    for _ in range(4):
        scheduler.submit(make_request(model="busy"))  # ready since 100.003, the rest since it is taken
    clock.now = 100.007
    scheduler.submit(make_request(model="late"))
    scheduler.submit(make_request(model="late"))  # ready since 100.007
    clock.now = 100.008
    assert [scheduler.next_batch()[0].model_id for _ in range(4)] == ["busy", "waited", "late", "busy"]


def test_options_are_those_at_construction(clock: Any, make_request: MakeRequest) -> None:
    config = SchedulingConfig()
    scheduler = BatchOptimizedScheduler(config)
    config.batch_optimized.max_batch_size = 1
    scheduler.submit(make_request())
    assert scheduler.next_batch() == []
    assert scheduler.window == 8
