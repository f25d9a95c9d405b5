"""Client queues: one for each client and model, and what ends in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest, ModelAwareScheduler, client_queues, create_scheduler
from inferential.scheduler.base import QueueFullError, Scheduler
from inferential.scheduler.client_queues import ClientQueues
from inferential.scheduler.request import RefusalKind, RequestState
from inferential.scheduler.time.availability import ReplicaSlot
from inferential.scheduler.time.profile import LatencyProfile

STRATEGIES = ["batch_optimized", "deadline_aware", "model_deadline", "priority_tiered", "round_robin"]
MakeRequest = Callable[..., InferenceRequest]


def take(queues: ClientQueues, model_id: str, limit: int, now: float) -> list[InferenceRequest]:
    taken = queues.choose([ReplicaSlot(model_id, "", limit, LatencyProfile())], now)
    queues.settle()
    return [] if taken is None else taken[1]


@pytest.fixture
def make_queues() -> Callable[..., ClientQueues]:
    def make(strategy: str = "deadline_aware", **options: Any) -> ClientQueues:
        config = SchedulingConfig(strategy=strategy, **options)
        config.batch_optimized.max_batch_size = 1
        return ClientQueues(config, create_scheduler(config))

    return make


def kinds(requests: list[InferenceRequest]) -> list[RefusalKind]:
    return [request.refusal.kind for request in requests if request.refusal is not None]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_newer_observation_takes_the_place_and_the_standing_of_one_that_waits(
    strategy: str, clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues(strategy)
    old = make_request("a", takes_latest=True)
    queues.offer(old, clock.now)
    clock.now += 0.5
    other = make_request("b", takes_latest=True)
    queues.offer(other, clock.now)
    clock.now += 0.5
    new = make_request("a", takes_latest=True)
    queues.offer(new, clock.now)

    assert kinds(queues.ended()) == [RefusalKind.SUPERSEDED]
    assert old.state is RequestState.REFUSED
    assert new.waiting_since == old.received_at
    assert take(queues, "m", 1, clock.now) == [new]
    assert take(queues, "m", 1, clock.now) == [other]


def test_requests_that_want_every_answer_are_not_superseded(
    clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues()
    requests = [make_request("a") for _ in range(3)]
    for request in requests:
        queues.offer(request, clock.now)
    assert queues.ended() == []
    assert [take(queues, "m", 1, clock.now)[0] for _ in range(3)] == requests


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_new_episode_ends_what_waits_of_the_former_one(
    strategy: str, clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues(strategy)
    old = [make_request("a") for _ in range(3)]
    other, elsewhere = make_request("b"), make_request("a", "other")
    new = [make_request("a", episode=1) for _ in range(2)]
    for request in (*old, other, elsewhere, *new):
        queues.offer(request, clock.now)
    ended = queues.ended()
    assert ended == old
    assert {request.refusal.cause for request in ended if request.refusal is not None} == {"episode"}
    assert set(kinds(ended)) == {RefusalKind.SUPERSEDED}
    assert set(queues.requests()) == {other, elsewhere, *new}


def test_a_newer_observation_for_one_model_leaves_those_for_others_alone(
    clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues()
    for model in ("m", "n"):
        queues.offer(make_request("a", model, takes_latest=True), clock.now)
    assert queues.ended() == []
    assert len(queues) == 2


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_client_that_floods_costs_another_one_place_at_most(
    strategy: str, clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues(strategy)
    for _ in range(500):
        queues.offer(make_request("flood", urgency=0.0), clock.now)
        clock.now += 0.001
    served = []
    for _ in range(20):
        good = make_request("good", urgency=0.0, time_until_next=0.02)
        queues.offer(good, clock.now)
        for _ in range(2):
            clock.now += 0.01
            served += take(queues, "m", 1, clock.now)
            queues.offer(make_request("flood", urgency=0.0), clock.now)
        assert good in served


def test_the_second_of_a_line_waits_for_the_strategy_since_the_first_was_taken(
    clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues()
    first, second = make_request("a"), make_request("a")
    queues.offer(first, clock.now)
    queues.offer(second, clock.now)
    clock.now += 3
    take(queues, "m", 1, clock.now)
    assert second.waiting_since == clock.now
    assert second.received_at == clock.now - 3


def test_one_client_alone_can_fill_a_batch(
    clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues()
    requests = [make_request("a") for _ in range(5)]
    for request in requests:
        queues.offer(request, clock.now)
    assert take(queues, "m", 4, clock.now) == requests[:4]


def test_a_full_queue_drops_the_oldest_of_the_client_that_has_most_waiting(
    clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues(max_queue_size=4)
    modest = make_request("modest")
    queues.offer(modest, clock.now)
    greedy = [make_request("greedy") for _ in range(3)]
    for request in greedy:
        clock.now += 0.1
        queues.offer(request, clock.now)
    newcomer = make_request("newcomer")
    queues.offer(newcomer, clock.now)
    assert queues.ended() == [greedy[0]]
    assert greedy[0].refusal is not None
    assert "queue is full" in greedy[0].refusal.reason
    assert modest.state is RequestState.QUEUED
    assert newcomer.state is RequestState.QUEUED


def test_a_full_queue_that_rejects_the_newest_keeps_those_that_wait(
    clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues(max_queue_size=1, overflow_policy="reject_newest")
    first, second = make_request("a"), make_request("b")
    queues.offer(first, clock.now)
    queues.offer(second, clock.now)
    assert queues.ended() == [second]
    assert kinds([second]) == [RefusalKind.REJECTED]


def test_a_full_queue_has_room_for_an_observation_that_supersedes(
    clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues(max_queue_size=1, overflow_policy="reject_newest")
    queues.offer(make_request("a", takes_latest=True), clock.now)
    new = make_request("a", takes_latest=True)
    queues.offer(new, clock.now)
    assert kinds(queues.ended()) == [RefusalKind.SUPERSEDED]
    assert new.state is RequestState.QUEUED


def test_overflow_evicts_from_the_lowest_tier_and_turns_away_who_is_lower_still(
    clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues("priority_tiered", max_queue_size=2)
    high, low = make_request("a", priority=0), make_request("b", priority=2)
    for request in (high, low):
        queues.offer(request, clock.now)
    newcomer = make_request("c", priority=1)
    queues.offer(newcomer, clock.now)
    assert queues.ended() == [low]
    last = make_request("d", priority=2)
    queues.offer(last, clock.now)
    assert queues.ended() == [last]


def test_requests_expire_by_the_time_they_were_received(
    clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues(request_ttl_ms=100)
    requests = [make_request("a"), make_request("a")]
    for request in requests:
        queues.offer(request, clock.now)
    expiry = queues.expires_at()
    assert expiry == pytest.approx(clock.now + 0.1)
    queues.expire(clock.now + 0.09)
    assert queues.ended() == []
    queues.expire(expiry)
    assert kinds(queues.ended()) == [RefusalKind.EXPIRED] * 2
    assert queues.expires_at() is None


def test_a_retry_passes_the_size_limit_and_goes_before_its_clients_other_requests(
    clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues("round_robin", max_queue_size=2, overflow_policy="reject_newest")
    first, second, third = (make_request("a") for _ in range(3))
    queues.offer(first, clock.now)
    queues.offer(second, clock.now)
    assert take(queues, "m", 1, clock.now) == [first]
    queues.offer(third, clock.now)
    queues.retry(first, clock.now)
    assert queues.ended() == []
    assert len(queues) == 3


def test_after_a_retry_past_the_limit_the_strategy_still_has_all_that_waits(
    clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues(max_queue_size=1)
    first, second, third = (make_request(client) for client in "abc")
    queues.offer(first, clock.now)
    take(queues, "m", 1, clock.now)
    queues.offer(second, clock.now)
    queues.retry(first, clock.now)
    queues.offer(third, clock.now)
    assert len(queues) == queues.scheduler.queue_len() == 2
    assert len(take(queues, "m", 9, clock.now)) == 2


def test_a_retry_gives_way_to_a_newer_observation_that_waits(
    clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues()
    old, new = make_request("a", takes_latest=True), make_request("a", takes_latest=True)
    queues.offer(old, clock.now)
    take(queues, "m", 1, clock.now)
    queues.offer(new, clock.now)
    queues.retry(old, clock.now)
    assert kinds(queues.ended()) == [RefusalKind.SUPERSEDED]
    assert take(queues, "m", 2, clock.now) == [new]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_another_strategy_takes_over_all_that_waits(
    strategy: str, clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues("round_robin")
    requests = [make_request(client) for client in "aabbb" for _ in range(2)]
    for request in requests:
        queues.offer(request, clock.now)
    config = SchedulingConfig(strategy=strategy)
    config.batch_optimized.max_batch_size = 1
    queues.swap(config, create_scheduler(config), clock.now)
    taken = [request for _ in requests for request in take(queues, "m", 1, clock.now)]
    assert sorted(taken, key=id) == sorted(requests, key=id)
    assert queues.ended() == []


def test_a_client_that_is_gone_leaves_nothing_behind(
    clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues()
    for model in ("m", "n"):
        for _ in range(3):
            queues.offer(make_request("gone", model), clock.now)
    stays = make_request("stays")
    queues.offer(stays, clock.now)
    queues.forget("gone", clock.now)
    assert len(queues.ended()) == 6
    assert queues.models() == ["m"]
    assert take(queues, "m", 9, clock.now) == [stays]
    assert len(queues) == 0
    assert sum(queues.sizes().values()) == 0


class Stack:
    """A user's scheduler that only knows the five methods, newest first, two at most."""

    def __init__(self, config: SchedulingConfig) -> None:
        self._requests: list[InferenceRequest] = []

    def submit(self, request: InferenceRequest) -> None:
        if len(self._requests) == 2:
            raise QueueFullError(request.client_id)
        self._requests.append(request)

    def next_batch(self) -> list[InferenceRequest]:
        return [self._requests.pop()] if self._requests else []

    def tick(self) -> int | None:
        return None

    def status(self) -> dict[str, Any]:
        return {}

    def queue_len(self) -> int:
        return len(self._requests)


@pytest.fixture
def stack() -> ClientQueues:
    config = SchedulingConfig()
    scheduler = Stack(config)
    assert not isinstance(scheduler, Scheduler | ModelAwareScheduler)
    return ClientQueues(config, scheduler)  # type: ignore[arg-type]


def test_a_users_scheduler_decides_the_order_of_all_requests(
    stack: ClientQueues, clock: Any, make_request: MakeRequest
) -> None:
    first, second = make_request("a"), make_request("a")
    stack.offer(first, clock.now)
    stack.offer(second, clock.now)
    assert take(stack, "m", 1, clock.now) == [second]
    assert take(stack, "m", 1, clock.now) == [first]


def test_what_a_users_scheduler_does_not_take_is_refused(
    stack: ClientQueues, clock: Any, make_request: MakeRequest
) -> None:
    requests = [make_request(client) for client in "abc"]
    for request in requests:
        stack.offer(request, clock.now)
    assert stack.ended() == [requests[2]]
    assert kinds([requests[2]]) == [RefusalKind.REJECTED]


def raises(*given: Any) -> Any:
    raise RuntimeError("no such thing")


@pytest.mark.parametrize("method", ["next_batch", "tick", "queue_len"])
def test_a_users_scheduler_that_raises_is_asked_again_and_logged_once(
    method: str, clock: Any, make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    scheduler: Any = Stack(SchedulingConfig())
    queues, request = ClientQueues(SchedulingConfig(), scheduler), make_request("a")
    with monkeypatch.context() as patch:
        patch.setattr(scheduler, method, raises)
        queues.offer(request, clock.now)
        for _ in range(2):
            queues.tick()
            if not take(queues, "m", 1, clock.now) and request.state is RequestState.QUEUED:
                assert queues.ready_at([ReplicaSlot("m", "", 1, LatencyProfile())]) is not None
    assert request.state is RequestState.DISPATCHED or take(queues, "m", 1, clock.now) == [request]
    assert caplog.text.count("scheduler Stack failed") == 1


def test_a_request_that_a_users_scheduler_fails_on_is_refused_at_once(
    clock: Any, make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    scheduler: Any = Stack(SchedulingConfig())
    queues, request, next_one = ClientQueues(SchedulingConfig(), scheduler), make_request("a"), make_request("b")
    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "submit", raises)
        queues.offer(request, clock.now)
    assert [one.refusal and one.refusal.cause for one in queues.ended()] == ["scheduler_failed"]
    queues.offer(next_one, clock.now)
    assert take(queues, "m", 9, clock.now) == [next_one]
    assert caplog.text.count("scheduler Stack failed") == 1


def test_a_users_scheduler_never_runs_what_was_superseded_or_expired(
    stack: ClientQueues, clock: Any, make_request: MakeRequest
) -> None:
    old, new = make_request("a", takes_latest=True), make_request("a", takes_latest=True)
    stack.offer(old, clock.now)
    stack.offer(new, clock.now)
    assert kinds(stack.ended()) == [RefusalKind.SUPERSEDED]
    stack.expire(clock.now + 6)
    assert kinds(stack.ended()) == [RefusalKind.EXPIRED]
    assert take(stack, "m", 9, clock.now) == []


def test_what_a_users_scheduler_gives_for_a_busy_model_waits_aside_in_its_order(
    stack: ClientQueues, clock: Any, make_request: MakeRequest
) -> None:
    for_n, for_m = make_request("a", "n"), make_request("b", "m")
    stack.offer(for_n, clock.now)
    stack.offer(for_m, clock.now)
    assert take(stack, "n", 1, clock.now) == [for_n]
    assert take(stack, "m", 1, clock.now) == [for_m]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_client_that_floods_is_held_back_after_its_call_and_others_are_not(
    strategy: str, clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues(strategy)
    flood = [make_request("flooder", pace_s=0.1) for _ in range(2)]
    for request in flood:
        queues.offer(request, clock.now)
    assert take(queues, "m", 1, clock.now) == [flood[0]]
    assert take(queues, "m", 1, clock.now) == []
    other = make_request("other")
    queues.offer(other, clock.now)
    assert take(queues, "m", 1, clock.now) == [other]
    assert queues.held_until() == pytest.approx(clock.now + 0.1)
    assert not queues.is_alone(make_request("flooder", pace_s=0.1))
    clock.now += 0.11
    queues.release(clock.now)
    assert take(queues, "m", 1, clock.now) == [flood[1]]
    assert (len(queues), queues.held_until()) == (0, None)


def test_one_connection_with_ever_new_client_ids_has_one_place_in_the_order(
    clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues("round_robin", max_queue_size=10)
    for number in range(9):
        queues.offer(make_request(f"id-{number}", connection=1), clock.now)
    robot = make_request("robot", connection=2)
    queues.offer(robot, clock.now)
    assert robot in [taken for _ in range(2) for taken in take(queues, "m", 1, clock.now)]
    late = [make_request(f"robot-{number}", connection=3 + number) for number in range(4)]
    for request in late:  # a full queue drops those of the connection that has most waiting
        queues.offer(request, clock.now)
    assert {request.connection for request in queues.ended()} <= {1}


def test_the_requests_of_a_connection_that_ended_end_and_those_of_its_successor_stay(
    clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues()
    old, new = make_request("arm", connection=1), make_request("arm", connection=2)
    queues.offer(old, clock.now)
    queues.offer(new, clock.now)
    assert queues.waits(1)
    queues.forget_connection(1, clock.now)
    assert (old.state, new.state, queues.waits(1)) == (RequestState.REFUSED, RequestState.QUEUED, False)
    assert take(queues, "m", 1, clock.now) == [new]


def test_the_payloads_that_wait_are_bounded_in_bytes(
    clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_queues, "MAX_BYTES", 1000)
    queues = make_queues()
    first, greedy = make_request("a", payload=bytes(400)), [make_request("b", payload=bytes(300)) for _ in range(3)]
    for request in (first, *greedy):
        queues.offer(request, clock.now)
    assert queues.ended() == [greedy[0]]  # the oldest of the client that has most waiting
    assert greedy[0].refusal is not None
    assert "bytes of observations wait" in greedy[0].refusal.reason
    assert queues.sizes()["queue_bytes"] == 1000
    too_large = make_request("c", payload=bytes(1001))
    queues.offer(too_large, clock.now)
    assert too_large in queues.ended()
    queues.clear("", "", clock.now)
    assert queues.sizes()["queue_bytes"] == 0


def test_a_full_queue_that_rejects_the_newest_does_so_by_bytes_too(
    clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_queues, "MAX_BYTES", 1000)
    queues = make_queues(overflow_policy="reject_newest")
    requests = [make_request(name, payload=bytes(600)) for name in "ab"]
    for request in requests:
        queues.offer(request, clock.now)
    assert queues.ended() == [requests[1]]
    assert take(queues, "m", 1, clock.now) == [requests[0]]
    assert queues.sizes()["queue_bytes"] == 0


def test_an_observation_that_becomes_stale_while_it_waits_is_refused_then(
    clock: Any, make_queues: Callable[..., ClientQueues], make_request: MakeRequest
) -> None:
    queues = make_queues(request_ttl_ms=5000)
    first, second = make_request("a"), make_request("b")
    second.stale_at = clock.now + 0.3
    for request in (first, second):
        queues.offer(request, clock.now)
    assert queues.expires_at() == pytest.approx(clock.now + 0.3)
    queues.expire(clock.now + 0.29)
    assert len(queues) == 2
    queues.expire(clock.now + 0.31)
    (ended,) = queues.ended()
    assert (ended, ended.refusal and ended.refusal.cause) == (second, "stale")
    assert queues.expires_at() == pytest.approx(clock.now + 5.0)
    queues.expire(clock.now + 5.0)
    assert [request.refusal.cause for request in queues.ended() if request.refusal] == ["ttl"]
