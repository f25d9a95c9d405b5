"""Tiers: strict order, and who has to go on overflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest, PriorityTieredScheduler, QueueFullError

MakeRequest = Callable[..., InferenceRequest]


def test_the_lowest_tier_number_goes_first_over_all_models_and_first_come_inside(
    clock: Any, make_request: MakeRequest
) -> None:
    scheduler = PriorityTieredScheduler(SchedulingConfig())
    requests = []
    for priority, model in [(1, "a"), (2, "a"), (0, "b"), (7, "b"), (1, "b"), (0, "a")]:
        clock.now += 0.001
        request = make_request(model=model, priority=priority)
        requests.append(request)
        scheduler.submit(request)
    assert scheduler.status()["tiers"] == [2, 2, 2]
    expected = [requests[place] for place in (2, 5, 0, 4, 1, 3)]  # 2 and 7 share the last tier
    assert [scheduler.next_batch()[0] for _ in requests] == expected
    assert scheduler.next_batch() == []


def test_one_model_is_served_in_the_same_order(clock: Any, make_request: MakeRequest) -> None:
    scheduler = PriorityTieredScheduler(SchedulingConfig())
    low, high = make_request(priority=2), make_request(priority=0)
    scheduler.submit(low)
    scheduler.submit(high)
    assert scheduler.next_batch_for_model("m", 5) == [high, low]


def test_overflow_evicts_the_oldest_of_the_lowest_tier_that_has_any(clock: Any, make_request: MakeRequest) -> None:
    scheduler = PriorityTieredScheduler(SchedulingConfig(max_queue_size=3))
    oldest_of_all = make_request(priority=0, received_at=90.0)
    newer, older = make_request(priority=1, received_at=95.0), make_request(priority=1, received_at=94.0)
    for request in (oldest_of_all, newer, older):
        scheduler.submit(request)
    equal = make_request(priority=1)
    scheduler.submit(equal)
    assert [scheduler.next_batch()[0] for _ in range(3)] == [oldest_of_all, newer, equal]


def test_a_newcomer_below_all_others_is_the_one_to_go(clock: Any, make_request: MakeRequest) -> None:
    scheduler = PriorityTieredScheduler(SchedulingConfig(max_queue_size=1))
    scheduler.submit(make_request(priority=1))
    with pytest.raises(QueueFullError) as error:
        scheduler.submit(make_request("low", priority=2))
    assert error.value.client_id == "low"
    assert scheduler.queue_len() == 1


def test_the_rank_of_eviction_is_the_tier(make_request: MakeRequest) -> None:
    config = SchedulingConfig()
    config.priority_tiered.num_tiers = 2
    scheduler = PriorityTieredScheduler(config)
    assert [scheduler.eviction_rank(make_request(priority=priority)) for priority in (0, 1, 9)] == [0, 1, 1]
