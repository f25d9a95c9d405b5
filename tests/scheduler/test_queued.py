"""What holds for every built-in strategy, whatever its order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferential.scheduler import InferenceRequest, ModelAwareScheduler, QueueFullError

MakeRequest = Callable[..., InferenceRequest]
MakeScheduler = Callable[..., ModelAwareScheduler]


def drain(scheduler: ModelAwareScheduler) -> list[InferenceRequest]:
    """Everything that waits, in serving order."""
    served = []
    while batch := scheduler.next_batch():
        served += batch
    return served


def test_a_full_queue_drops_the_one_received_first(
    strategy: str, clock: Any, make_request: MakeRequest, make_scheduler: MakeScheduler
) -> None:
    scheduler = make_scheduler(strategy, max_queue_size=3)
    requests = [make_request(f"c{at}", received_at=at) for at in (92.0, 91.0, 93.0, 94.0)]
    for request in requests:
        scheduler.submit(request)
    assert scheduler.queue_len() == 3
    assert requests[1] not in drain(scheduler)


def test_a_full_queue_rejects_the_new_request_where_configured(
    strategy: str, clock: Any, make_request: MakeRequest, make_scheduler: MakeScheduler
) -> None:
    scheduler = make_scheduler(strategy, max_queue_size=1, overflow_policy="reject_newest")
    first = make_request("first")
    scheduler.submit(first)
    with pytest.raises(QueueFullError) as error:
        scheduler.submit(make_request("late"))
    assert error.value.client_id == "late"
    clock.now += 1
    assert drain(scheduler) == [first]


def test_a_retry_passes_the_size_limit(
    strategy: str, clock: Any, make_request: MakeRequest, make_scheduler: MakeScheduler
) -> None:
    scheduler = make_scheduler(strategy, max_queue_size=1, overflow_policy="reject_newest")
    scheduler.submit(make_request())
    scheduler.resubmit(make_request())
    assert scheduler.queue_len() == 2


def test_a_request_cannot_wait_twice(strategy: str, make_request: MakeRequest, make_scheduler: MakeScheduler) -> None:
    scheduler = make_scheduler(strategy)
    request = make_request()
    scheduler.submit(request)
    with pytest.raises(ValueError, match="already queued"):
        scheduler.submit(request)
    assert scheduler.queue_len() == 1


def test_requests_older_than_the_time_to_live_are_gone_after_a_tick_in_whatever_order_they_came(
    strategy: str, clock: Any, make_request: MakeRequest, make_scheduler: MakeScheduler
) -> None:
    scheduler = make_scheduler(strategy, request_ttl_ms=1000.0)
    for received_at in (99.5, 98.0, 100.0, 98.9, 99.0):
        scheduler.submit(make_request(f"c{received_at}", received_at=received_at))
    assert scheduler.tick() == 2
    assert scheduler.tick() == 0
    assert {request.received_at for request in drain(scheduler)} == {99.0, 99.5, 100.0}


def test_what_a_gone_client_asked_goes_too(
    strategy: str, clock: Any, make_request: MakeRequest, make_scheduler: MakeScheduler
) -> None:
    scheduler = make_scheduler(strategy)
    scheduler.on_client_connected("gone")
    for model in ("a", "a", "b"):
        scheduler.submit(make_request("gone", model))
    stays = make_request("stays", "a")
    scheduler.submit(stays)
    scheduler.on_client_disconnected("gone")
    scheduler.on_client_disconnected("never seen")
    clock.now += 1
    assert scheduler.status()["models"] == {"a": 1}
    assert drain(scheduler) == [stays]


def test_a_removed_request_is_not_served_and_may_come_back(
    strategy: str, clock: Any, make_request: MakeRequest, make_scheduler: MakeScheduler
) -> None:
    scheduler = make_scheduler(strategy)
    first, second = make_request("c1"), make_request("c2")
    scheduler.submit(first)
    scheduler.submit(second)
    assert scheduler.remove(first)
    assert not scheduler.remove(first)
    clock.now += 1
    assert drain(scheduler) == [second]
    assert not scheduler.remove(second)
    scheduler.resubmit(first)
    clock.now += 1
    assert drain(scheduler) == [first]


def test_models_are_asked_and_counted_apart(
    strategy: str, clock: Any, make_request: MakeRequest, make_scheduler: MakeScheduler
) -> None:
    scheduler = make_scheduler(strategy)
    requests = [make_request(f"c{n}", model) for n, model in enumerate("aab")]
    for request in requests:
        scheduler.submit(request)
    clock.now += 1
    assert sorted(scheduler.models()) == ["a", "b"]
    assert [scheduler.queue_len_for_model(model) for model in "abc"] == [2, 1, 0]
    assert scheduler.next_batch_for_model("c") == []
    assert scheduler.next_batch_for_model("a", 0) == []
    assert scheduler.next_batch_for_model("a", 8) == requests[:2]
    assert scheduler.models() == ["b"]
    assert scheduler.ready_at("a") is None
    assert scheduler.status()["models"] == {"b": 1}
    assert scheduler.queue_len() == 1


def test_a_model_is_ready_exactly_when_it_gives_something(
    strategy: str, clock: Any, make_request: MakeRequest, make_scheduler: MakeScheduler
) -> None:
    scheduler = make_scheduler(strategy)
    assert scheduler.ready_at("m") is None
    request = make_request()
    scheduler.submit(request)
    ready_at = scheduler.ready_at("m")
    assert ready_at is not None
    if ready_at > clock.now:
        assert scheduler.next_batch_for_model("m") == []
        clock.now = ready_at
    assert scheduler.next_batch_for_model("m") == [request]


def test_the_server_shows_it_one_request_of_a_client_or_one_batch(strategy: str, make_scheduler: MakeScheduler) -> None:
    assert make_scheduler(strategy).window == (8 if strategy == "batch_optimized" else 1)


OPS = ["submit", "submit", "submit", "retry", "take", "all", "remove", "time", "gone"]


@pytest.mark.parametrize("overflow_policy", ["drop_oldest", "reject_newest"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_each_request_is_once_taken_evicted_refused_expired_or_removed(
    strategy: str,
    overflow_policy: str,
    data: st.DataObject,
    make_request: MakeRequest,
    make_scheduler: MakeScheduler,
    stopped_clock: Callable[..., AbstractContextManager[Any]],
) -> None:
    with stopped_clock() as clock:
        size = data.draw(st.integers(1, 6))
        scheduler = make_scheduler(strategy, max_queue_size=size, overflow_policy=overflow_policy, request_ttl_ms=500.0)
        waiting: list[InferenceRequest] = []  # or evicted since
        submitted = ended = evicted = 0

        def end(requests: list[InferenceRequest]) -> None:
            nonlocal ended
            for request in requests:
                waiting.remove(request)  # raises for one that was not waiting
                ended += 1

        for _ in range(data.draw(st.integers(1, 40))):
            op = data.draw(
                st.sampled_from(["submit", "submit", "submit", "retry", "take", "all", "remove", "time", "gone"])
            )
            model = data.draw(st.sampled_from("ab"))
            client = data.draw(st.sampled_from("xyz"))
            before = scheduler.queue_len()
            if op in ("submit", "retry"):
                request = make_request(
                    client,
                    model,
                    received_at=clock.now - data.draw(st.sampled_from([0.0, 0.1, 0.3])),
                    priority=data.draw(st.integers(0, 4)),
                )
                submitted += 1
                try:
                    scheduler.submit(request) if op == "submit" else scheduler.resubmit(request)
                except QueueFullError:
                    assert before >= size
                    ended += 1
                else:
                    evicted += scheduler.queue_len() == before
                    assert scheduler.queue_len() <= max(size, before + (op == "retry"))
                    waiting.append(request)
            elif op == "take":
                end(scheduler.next_batch_for_model(model, data.draw(st.integers(1, 4))))
            elif op == "all":
                end(scheduler.next_batch())
            elif op == "remove" and waiting:
                request = data.draw(st.sampled_from(waiting))
                if scheduler.remove(request):
                    end([request])
            elif op == "time":
                clock.now += data.draw(st.sampled_from([0.01, 0.2, 0.6]))
                ended += scheduler.tick() or 0
                assert scheduler.tick() == 0
                waiting = [request for request in waiting if clock.now - request.received_at <= 0.5]
            elif op == "gone":
                scheduler.on_client_disconnected(client)
                ended += before - scheduler.queue_len()
                waiting = [request for request in waiting if request.client_id != client]
            assert scheduler.queue_len() == submitted - ended - evicted
            assert sum(scheduler.queue_len_for_model(model) for model in scheduler.models()) == scheduler.queue_len()
        clock.now += 0.01
        end(drain(scheduler))
        assert scheduler.queue_len() == 0
        assert submitted == ended + evicted
