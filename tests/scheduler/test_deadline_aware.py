"""Highest score first over all models, and policies in its place."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import DeadlineAwareScheduler, InferenceRequest, ModelDeadlineScheduler, register_policy
from inferential.scheduler.score import AFTER_S, ASIDE_S

MakeRequest = Callable[..., InferenceRequest]


@pytest.fixture(params=[DeadlineAwareScheduler, ModelDeadlineScheduler])
def scheduler(request: pytest.FixtureRequest) -> DeadlineAwareScheduler | ModelDeadlineScheduler:
    built = request.param(SchedulingConfig())
    assert isinstance(built, DeadlineAwareScheduler | ModelDeadlineScheduler)
    return built


def test_the_best_of_all_models_goes_first(clock: Any, make_request: MakeRequest) -> None:
    scheduler = DeadlineAwareScheduler(SchedulingConfig())
    calm = make_request(model="a")
    urgent = make_request(model="b", urgency=1.0)
    overdue = make_request(model="c", time_until_next=-0.1)
    for request in (calm, urgent, overdue):
        scheduler.submit(request)
    assert [scheduler.next_batch() for _ in range(4)] == [[overdue], [urgent], [calm], []]


def test_the_order_follows_the_clock_and_not_the_time_of_submission(clock: Any, make_request: MakeRequest) -> None:
    scheduler = DeadlineAwareScheduler(SchedulingConfig())
    urgent = make_request(urgency=1.0, time_until_next=10.0)
    soon_overdue = make_request(time_until_next=0.05)
    scheduler.submit(urgent)
    scheduler.submit(soon_overdue)
    assert urgent.score > soon_overdue.score
    clock.now += 0.2
    assert scheduler.next_batch() == [soon_overdue]
    assert soon_overdue.score == pytest.approx(9.0 + 15.0 + 45.0 * 1.5)


def test_equals_are_served_in_the_order_they_came(clock: Any, make_request: MakeRequest) -> None:
    scheduler = DeadlineAwareScheduler(SchedulingConfig())
    requests = [make_request(f"c{n}", model=f"m{n % 2}") for n in range(6)]
    for request in reversed(requests):
        scheduler.submit(request)
    assert [scheduler.next_batch()[0] for _ in requests] == requests


def test_weights_come_from_the_section_of_the_strategy(clock: Any, make_request: MakeRequest) -> None:
    config = SchedulingConfig()
    config.deadline_aware.urgency_weight = 100.0
    config.model_deadline.urgency_weight = 1.0
    scores = []
    for kind in (DeadlineAwareScheduler, ModelDeadlineScheduler):
        request = make_request(urgency=1.0)
        kind(config).submit(request)
        scores.append(request.score)
    assert scores == [109.0, 10.0]


def test_a_policy_scores_in_place_of_the_built_in_formula(
    scheduler: DeadlineAwareScheduler, make_request: MakeRequest
) -> None:
    @register_policy("test_shortest_name")
    def shortest_name(request: InferenceRequest) -> float:
        return -len(request.client_id)

    waiting = make_request("abc", urgency=1.0)
    scheduler.submit(waiting)
    scheduler.use_policy("test_shortest_name")
    assert waiting.score == -3
    request = make_request("ab")
    scheduler.submit(request)
    assert request.score == -2
    equal = make_request("xy")
    scheduler.submit(equal)
    assert scheduler.status()["policy"] == "test_shortest_name"
    assert scheduler.next_batch_for_model("m", 2) == [request, equal]
    assert scheduler.next_batch() == [waiting]


def test_a_policy_is_asked_at_the_time_of_taking(
    scheduler: DeadlineAwareScheduler, clock: Any, make_request: MakeRequest
) -> None:
    @register_policy("test_closest_to_101")
    def closest(request: InferenceRequest) -> float:
        return -abs(request.latency_budget_ms / 1000 - (time.monotonic() - 100.0))

    scheduler.use_policy("test_closest_to_101")
    early, late = make_request(latency_budget_ms=100.0), make_request(latency_budget_ms=900.0)
    scheduler.submit(early)
    scheduler.submit(late)
    assert early.score > late.score
    clock.now += 0.9
    assert scheduler.next_batch() == [late]


def test_a_policy_that_raises_leaves_the_built_in_order(
    scheduler: DeadlineAwareScheduler, clock: Any, make_request: MakeRequest
) -> None:
    @register_policy("test_broken")
    def broken(request: InferenceRequest) -> float:
        raise RuntimeError("broken")

    scheduler.use_policy("test_broken")
    calm, urgent = make_request(), make_request(urgency=1.0)
    scheduler.submit(calm)
    scheduler.submit(urgent)
    assert [scheduler.next_batch(), scheduler.next_batch()] == [[urgent], [calm]]


def test_an_unknown_policy_is_an_error(scheduler: DeadlineAwareScheduler) -> None:
    with pytest.raises(ValueError, match="Unknown policy 'test_nope'"):
        scheduler.use_policy("test_nope")
    assert scheduler.status()["policy"] is None


@pytest.mark.parametrize(("fields", "for_s"), [({"pace_s": 0.1}, ASIDE_S), ({"goes_aside": True}, AFTER_S)])
def test_a_client_that_asks_for_more_than_its_share_goes_after_the_others_for_a_while(
    fields: dict[str, Any],
    for_s: float,
    scheduler: DeadlineAwareScheduler | ModelDeadlineScheduler,
    clock: Any,
    make_request: MakeRequest,
) -> None:
    flood = make_request("flood", time_until_next=0.0001, **fields)
    scheduler.submit(flood)
    clock.now += for_s / 2
    first = make_request("robot", time_until_next=0.2)
    scheduler.submit(first)
    assert scheduler.next_batch() == [first]
    clock.now += for_s
    second = make_request("robot", time_until_next=0.2)
    scheduler.submit(second)
    assert scheduler.next_batch() == [flood]  # by then it is its turn, however many wait
    assert scheduler.next_batch() == [second]


def test_a_request_that_is_held_back_to_keep_an_order_is_not_set_aside(clock: Any, make_request: MakeRequest) -> None:
    scheduler = DeadlineAwareScheduler(SchedulingConfig())
    ordered, robot = make_request("ordered", time_until_next=-0.1), make_request("robot")
    ordered.pace_s, ordered.in_order = float("inf"), ("robot", "m")
    for one in (robot, ordered):
        scheduler.submit(one)
    assert scheduler.next_batch() == [ordered]
