"""Since when clients wait whose requests ended without a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest, create_scheduler
from inferential.scheduler.client_queues import ClientQueues
from inferential.scheduler.standings import MOST, Standings

MakeRequest = Callable[..., InferenceRequest]
TTL_S = 5.0


@pytest.fixture
def queues() -> ClientQueues:
    config = SchedulingConfig(strategy="priority_tiered")
    return ClientQueues(config, create_scheduler(config))


def expire(queues: ClientQueues, clock: Any) -> None:
    clock.now += TTL_S
    queues.expire(clock.now)


def test_a_client_that_asks_again_after_its_request_expired_waits_since_it_first_asked(
    queues: ClientQueues, clock: Any, make_request: MakeRequest
) -> None:
    first = make_request("a", connection=1)
    queues.offer(first, clock.now)
    expire(queues, clock)
    clock.now += 0.1
    again = make_request("a", connection=1)
    queues.offer(again, clock.now)
    assert (again.waiting_since, again.arrival) == (first.received_at, first.arrival)
    after = make_request("a", connection=1)
    queues.offer(after, clock.now)
    assert after.waiting_since == clock.now


def test_what_moves_up_in_place_of_an_expired_request_waits_since_that_did(
    queues: ClientQueues, clock: Any, make_request: MakeRequest
) -> None:
    first = make_request("a")
    queues.offer(first, clock.now)
    clock.now += 1.0
    second = make_request("a")
    queues.offer(second, clock.now)
    clock.now -= 1.0
    expire(queues, clock)
    assert second.waiting_since == first.received_at
    assert second.arrival > first.arrival


def test_a_client_that_asks_again_much_later_has_not_waited(
    queues: ClientQueues, clock: Any, make_request: MakeRequest
) -> None:
    queues.offer(make_request("a"), clock.now)
    expire(queues, clock)
    clock.now += TTL_S + 0.1
    again = make_request("a")
    queues.offer(again, clock.now)
    assert again.waiting_since == clock.now


def test_a_client_that_floods_waits_anew(queues: ClientQueues, clock: Any, make_request: MakeRequest) -> None:
    queues.offer(make_request("a", pace_s=0.1), clock.now)
    expire(queues, clock)
    again = make_request("a")
    queues.offer(again, clock.now)
    assert again.waiting_since == clock.now


def test_a_connection_that_ended_leaves_no_standing(
    queues: ClientQueues, clock: Any, make_request: MakeRequest
) -> None:
    for connection, name in ((1, "a"), (0, "b")):
        queues.offer(make_request(name, connection=connection), clock.now)
    expire(queues, clock)
    queues.forget_connection(1, clock.now)
    queues.forget("b", clock.now)
    for connection, name in ((1, "a"), (0, "b")):
        again = make_request(name, connection=connection)
        queues.offer(again, clock.now)
        assert again.waiting_since == clock.now


def test_standings_are_bounded_and_old_ones_go(clock: Any, make_request: MakeRequest) -> None:
    standings = Standings(1.0)
    request = make_request()
    for number in range(MOST + 10):
        standings.note((number, "m"), request, clock.now)
    assert len(standings) == MOST
    standings.note((0, "m"), request, clock.now + 1.1)
    assert len(standings) == 1
