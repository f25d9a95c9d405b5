"""The rotation: fair, and no larger than it must be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest, RoundRobinScheduler
from inferential.scheduler.lanes import RotationLane

MakeRequest = Callable[..., InferenceRequest]


@pytest.fixture
def scheduler() -> RoundRobinScheduler:
    return RoundRobinScheduler(SchedulingConfig())


def submit(scheduler: RoundRobinScheduler, make_request: MakeRequest, clients: str, model: str = "m") -> None:
    for client in clients:
        scheduler.submit(make_request(client, model))


def served(scheduler: RoundRobinScheduler, count: int) -> str:
    return "".join(scheduler.next_batch()[0].client_id for _ in range(count))


def test_clients_take_turns(scheduler: RoundRobinScheduler, make_request: MakeRequest) -> None:
    submit(scheduler, make_request, "121")
    assert served(scheduler, 3) == "121"
    assert scheduler.next_batch() == []


def test_a_flood_of_one_client_leaves_the_others_their_turns(
    scheduler: RoundRobinScheduler, make_request: MakeRequest
) -> None:
    submit(scheduler, make_request, "aaaaaaabc")
    assert scheduler.status()["active_clients"] == 3
    assert served(scheduler, 9) == "abcaaaaaa"


def test_turns_go_over_all_models_or_over_the_one_that_is_asked_for(
    scheduler: RoundRobinScheduler, make_request: MakeRequest
) -> None:
    submit(scheduler, make_request, "aab", "m1")
    submit(scheduler, make_request, "ab", "m2")
    assert served(scheduler, 2) == "ab"
    assert [request.client_id for request in scheduler.next_batch_for_model("m1", 5)] == ["a"]
    assert [request.client_id for request in scheduler.next_batch_for_model("m2", 5)] == ["a", "b"]
    assert scheduler.queue_len() == 0


def test_a_client_that_asks_again_and_again_neither_gains_nor_loses_a_turn(
    scheduler: RoundRobinScheduler, make_request: MakeRequest
) -> None:
    requests = {client: make_request(client) for client in "abc"}
    for request in requests.values():
        scheduler.submit(request)
    for _ in range(3):  # b supersedes its own request
        scheduler.remove(requests["b"])
        requests["b"] = make_request("b")
        scheduler.submit(requests["b"])
    assert served(scheduler, 1) == "a"
    submit(scheduler, make_request, "a")
    assert served(scheduler, 3) == "bca"


def test_a_retry_waits_for_the_next_turn_of_its_client(
    scheduler: RoundRobinScheduler, make_request: MakeRequest
) -> None:
    submit(scheduler, make_request, "aab")
    (failed,) = scheduler.next_batch()
    scheduler.resubmit(failed)
    assert served(scheduler, 3) == "baa"


@settings(deadline=None)
@given(happenings=st.lists(st.tuples(st.sampled_from("stttr"), st.sampled_from("abcde")), max_size=150))
def test_no_client_is_served_twice_between_two_turns_of_one_that_waits(
    happenings: list[tuple[str, str]], make_request: MakeRequest
) -> None:
    scheduler = RoundRobinScheduler(SchedulingConfig())
    since: dict[str, Counter[str]] = {}  # what others got since a client that waits entered or was served
    waits: dict[str, list[InferenceRequest]] = {client: [] for client in "abcde"}
    for what, client in happenings:
        if what == "s":
            waits[client].append(make_request(client))
            scheduler.submit(waits[client][-1])
            since.setdefault(client, Counter())
        elif what == "r" and client in since:  # superseded: removed, and asked again
            scheduler.remove(waits[client].pop(0))
            waits[client].append(make_request(client))
            scheduler.submit(waits[client][-1])
        elif what == "t":
            for request in scheduler.next_batch():
                winner = request.client_id
                waits[winner].remove(request)
                del since[winner]
                if waits[winner]:
                    since[winner] = Counter()
                for waiting, others in since.items():
                    if waiting != winner:
                        others[winner] += 1
                        assert others[winner] <= 1
    assert scheduler.queue_len() == sum(map(len, waits.values()))


def test_clients_that_came_and_went_take_no_place(make_request: MakeRequest) -> None:
    lane = RotationLane()
    stays = [make_request("stays"), make_request("too")]
    for request in stays:
        lane.push(request, 0.0)
    for n in range(1000):
        request = make_request(f"gone{n}")
        lane.push(request, 0.0)
        lane.discard(request)
        assert lane.places() <= 40
    assert lane.take(9, 0.0) == stays
    assert len(lane) == 0


def test_empty_places_are_passed_over(scheduler: RoundRobinScheduler, make_request: MakeRequest, clock: Any) -> None:
    requests = [make_request(client) for client in "abc"]
    for request in requests:
        scheduler.submit(request)
    scheduler.remove(requests[0])
    scheduler.remove(requests[1])
    assert served(scheduler, 1) == "c"
    assert scheduler.models() == []
